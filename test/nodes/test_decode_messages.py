# SPDX-License-Identifier: Apache-2.0
import sys
import types

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from pose_kd_ros.core.sensor_messages import (
    UnusableMessage,
    compressed_to_rgb,
    depth_to_metres,
    image_to_array,
    info_to_camera,
)
from pose_kd_ros.nodes.cameras import CameraLatch
from pose_kd_ros.nodes.decode_messages import decode_regions, image_to_rgb
from pose_kd_ros.nodes.encode_messages import array_to_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)


def with_padding(message, extra):
    """The same image with ``extra`` bytes behind each row."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    message.data = np.pad(rows, ((0, 0), (0, extra)), constant_values=77).tobytes()
    message.step += extra
    return message


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("rgb8", None),
        ("bgr8", cv2.COLOR_RGB2BGR),
        ("rgba8", cv2.COLOR_RGB2RGBA),
        ("bgra8", cv2.COLOR_RGB2BGRA),
    ],
)
def test_colour_images_come_out_as_rgb(encoding, code, padding):
    pixels = RGB if code is None else cv2.cvtColor(RGB, code)
    message = with_padding(array_to_image(pixels, encoding, Header()), padding)
    np.testing.assert_array_equal(image_to_rgb(message), RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_images_come_out_as_grey_rgb(encoding):
    message = with_padding(array_to_image(GREY, encoding, Header()), 3)
    np.testing.assert_array_equal(image_to_rgb(message), np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("encoding", "kind"), [("mono16", "u2"), ("16UC1", "u2"), ("32FC1", "f4")])
def test_wide_pixels_in_either_byte_order(encoding, kind, padding, big):
    values = np.arange(12, dtype=kind).reshape(3, 4) * 300
    message = array_to_image(values, encoding, Header())
    message.data = values.astype((">" if big else "<") + kind).tobytes()
    message.is_bigendian = int(big)
    np.testing.assert_array_equal(image_to_array(with_padding(message, padding)), values)


def test_mono16_gives_its_high_byte():
    message = array_to_image(np.full((2, 2), 0x80FF, np.uint16), "mono16", Header())
    assert (image_to_rgb(message) == 0x80).all()


def test_reading_and_writing_do_not_copy_more_than_once():
    message = array_to_image(RGB, "rgb8", Header())
    pixels = image_to_rgb(message)
    message.data[0] = (int(pixels[0, 0, 0]) + 1) % 256
    assert pixels[0, 0, 0] == message.data[0]


def test_an_image_survives_the_round_trip_whatever_its_memory():
    transposed = np.ascontiguousarray(RGB.transpose(1, 0, 2)).transpose(1, 0, 2)
    np.testing.assert_array_equal(image_to_array(array_to_image(transposed, "rgb8", Header())), RGB)
    swapped = np.arange(6, dtype=">u2").reshape(2, 3)
    np.testing.assert_array_equal(image_to_array(array_to_image(swapped, "mono16", Header())), swapped)


@pytest.mark.parametrize("changes", [{"step": 20}, {"height": 6}, {"width": 0}, {"data": b"\x00" * 104}])
def test_sizes_that_do_not_fit_are_refused(changes):
    message = array_to_image(RGB, "rgb8", Header())
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(UnusableMessage, match="step"):
        image_to_rgb(message)


def test_depth_is_refused_as_a_picture():
    with pytest.raises(UnusableMessage, match="depth"):
        image_to_rgb(array_to_image(np.zeros((2, 2), np.uint16), "16UC1", Header()))


def test_an_unknown_encoding_names_the_known_ones_and_cv_bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(UnusableMessage, match=r"rgb8, bgr8.*bayer_rggb16.*cv_bridge") as refusal:
        image_to_rgb(Image(encoding="bayer_rggb16", width=2, height=2))
    assert refusal.value.reason == "encoding"


@pytest.mark.parametrize("corner", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_pattern_s_letters_are_its_first_two_rows(corner):
    colours = dict(r=200, g=100, b=50)
    pattern = np.array([colours[letter] for letter in corner], np.uint8).reshape(2, 2)
    image = image_to_rgb(array_to_image(np.tile(pattern, (4, 4)), f"bayer_{corner}8", Header()))
    np.testing.assert_array_equal(image[3, 3], [200, 100, 50])


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", (0, 1)), ("yuv422_yuy2", (1, 0))])
def test_neutral_chroma_is_grey(encoding, order):
    values = np.tile(np.array([128, 128], np.uint8), (4, 6, 1))
    values[..., order[1]] = 180
    image = image_to_rgb(array_to_image(values, encoding, Header()))
    assert image.shape == (4, 6, 3) and np.ptp(image) <= 2 and image.min() > 180


@pytest.mark.parametrize("encoding", ["yuv422", "yuyv"])
def test_half_a_pair_of_yuv_pixels_is_refused_in_words(encoding):
    message = array_to_image(np.zeros((4, 5, 2), np.uint8), encoding, Header())
    with pytest.raises(UnusableMessage, match=f"{encoding}: wanted an even width, found 5x4") as refusal:
        image_to_rgb(message)
    assert refusal.value.reason == "image_size"


@pytest.mark.parametrize(("encoding", "wanted"), [("8UC3", "bgr8 or rgb8"), ("8UC4", "bgra8 or rgba8")])
def test_an_order_of_channels_is_not_guessed(monkeypatch, encoding, wanted):
    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=None))
    with pytest.raises(UnusableMessage, match=f"wanted {wanted}, which say the order .* found '{encoding}'"):
        image_to_rgb(Image(encoding=encoding, width=2, height=2))


class StandInBridge:
    """cv_bridge.CvBridge as its documentation has it. Not run against the real cv_bridge."""

    def imgmsg_to_cv2(self, message, desired_encoding="passthrough"):
        assert desired_encoding == "rgb8"
        if message.encoding == "broken":
            raise RuntimeError("[broken] is not a color format")
        raw = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        return cv2.cvtColor(raw, cv2.COLOR_BayerRGGB2RGB)


def test_other_encodings_go_to_cv_bridge(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=StandInBridge))
    message = Image(encoding="8UC1_pattern", width=8, height=6, step=8, data=bytes(48))
    assert image_to_rgb(message).shape == (6, 8, 3)
    message.encoding = "broken"
    with pytest.raises(UnusableMessage, match="not a color format"):
        image_to_rgb(message)


def compressed(extension, pixels=RGB):
    data = cv2.imencode(extension, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return CompressedImage(format=extension[1:], data=data)


def test_compressed_images_come_out_as_rgb():
    np.testing.assert_array_equal(compressed_to_rgb(compressed(".png")), RGB)
    smooth = np.dstack(
        [
            np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)),
            np.full((64, 64), 200, np.uint8),
            np.full((64, 64), 10, np.uint8),
        ]
    )
    assert np.abs(compressed_to_rgb(compressed(".jpg", smooth)).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_files_are_refused_rather_than_filled_with_grey(extension, share):
    message = compressed(extension, np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    message.data = message.data[: int(len(message.data) * share)]
    with pytest.raises(UnusableMessage, match="truncated") as refusal:
        compressed_to_rgb(message)
    assert refusal.value.reason == "truncated"


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(40)])
def test_other_files_are_refused(data):
    with pytest.raises(UnusableMessage, match="JPEG or PNG"):
        compressed_to_rgb(CompressedImage(format="gif", data=data))


def info(**changes):
    message = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    message.k = [500.0, 0.0, 320.0, 0.0, 501.0, 240.0, 0.0, 0.0, 1.0]
    message.header.frame_id = "camera"
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_camera_info_becomes_a_camera():
    camera = info_to_camera(info())
    assert (camera.K[1, 1], camera.D[0], camera.model, camera.width) == (501.0, 0.1, "plumb_bob", 640)
    fisheye = info_to_camera(info(distortion_model="equidistant", d=[0.1, 0.0, 0.0, 0.0]))
    assert fisheye.model == "equidistant"


@pytest.mark.parametrize("d", [[], [0.0] * 5, [0.0] * 8])
def test_no_distortion_is_a_pinhole_whatever_the_model_is_called(d):
    assert len(info_to_camera(info(d=d, distortion_model="none")).D) == 0


K1, K8 = [0.1, -0.2, 0.001, 0.002, 0.05], [0.1, -0.2, 0.001, 0.002, 0.05, 0.3, 0.1, 0.02]


@pytest.mark.parametrize(
    ("model", "d", "taken_as"),
    [
        ("plumb_bob", [*K1, 0.0, 0.0, 0.0], ("plumb_bob", K1)),
        ("plumb_bob", K8, ("rational_polynomial", K8)),
        ("plumb_bob", [*K8, *[0.0] * 6], ("rational_polynomial", K8)),
        ("plumb_bob", [*K1, 0.3], ("rational_polynomial", [*K1, 0.3, 0.0, 0.0])),
        ("rational_polynomial", K1, ("plumb_bob", K1)),
        ("rational_polynomial", K1[:4], ("plumb_bob", K1[:4])),
        ("equidistant", [*K1[:4], 0.0], ("equidistant", K1[:4])),
        ("fisheye", [*K1[:4], *[0.0] * 4], ("equidistant", K1[:4])),
    ],
)
def test_the_lengths_that_drivers_write_mean_what_opencv_means(model, d, taken_as):
    camera = info_to_camera(info(distortion_model=model, d=d))
    assert (camera.model, camera.D.tolist()) == taken_as
    if model == "plumb_bob":
        rays = np.array([[0.3, 0.2, 1.0], [-0.4, 0.1, 1.0]])
        padded = np.array([*d, *[0.0] * (14 - len(d))])
        wanted = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), camera.K, padded)[0][:, 0]
        np.testing.assert_allclose(camera.project(rays), wanted, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"distortion_model": "equidistant", "d": [0.1] * 5}, "camera_info", r"wanted \(4,\) .*found 5"),
        ({"d": [0.1] * 15}, "camera_info", "found 15"),
        ({"k": [0.0] * 9}, "uncalibrated", r"not calibrated \(K\[0\] = 0\)"),
        ({"distortion_model": "thin_prism"}, "distortion_model", "found 'thin_prism'"),
        ({"d": [0.1] * 3}, "camera_info", "found 3"),
        ({"binning_x": 2, "binning_y": 2}, "binning", "binning 2x2"),
        ({"height": 0}, "camera_info", "640x0"),
        ({"k": [float("nan")] + [0.0] * 8}, "camera_info", "not finite"),
    ],
)
def test_unusable_camera_info_says_why(changes, reason, text):
    with pytest.raises(UnusableMessage, match=text) as refusal:
        info_to_camera(info(**changes))
    assert refusal.value.reason == reason


def test_the_latch_takes_the_latest_info_of_the_image_s_frame_and_size():
    latch = CameraLatch()
    with pytest.raises(UnusableMessage, match="no camera_info has arrived"):
        latch.camera_for("camera", 640, 480)
    latch.put(info())
    first = latch.camera_for("camera", 640, 480)
    latch.put(info())
    assert latch.camera_for("camera", 640, 480) is first
    with pytest.raises(UnusableMessage, match="320x240, camera_info says 640x480"):
        latch.camera_for("camera", 320, 240)
    with pytest.raises(UnusableMessage, match=r"'left'.*'camera'"):
        latch.camera_for("left", 640, 480)
    latch.put(info(d=[0.2, 0.0, 0.0, 0.0, 0.0]))
    assert latch.camera_for("camera", 640, 480).D[0] == 0.2


def test_an_orientation_in_the_file_turns_no_pixels():
    """EXIF tag 0x0112 is the orientation; 6 is a quarter turn."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    message = compressed(".jpg", np.zeros((16, 48, 3), np.uint8))
    data = bytes(message.data)
    message.data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    turned = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert turned.shape == (48, 16, 3) and compressed_to_rgb(message).shape == (16, 48, 3)


def detection(name, u, v, width, height):
    message = Detection2D()
    message.bbox.center.position.x, message.bbox.center.position.y = u, v
    message.bbox.size_x, message.bbox.size_y = width, height
    if name is not None:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = name
        message.results = [result]
    return message


def test_boxes_become_regions_unless_their_class_is_not_ours():
    boxes = [
        detection("cube", 10.0, 20.0, 8.0, 6.0),
        detection("person", 5.0, 5.0, 2.0, 2.0),
        detection(None, 50.0, 50.0, 10.0, 10.0),
        detection("cube", 1.0, 1.0, 0.0, 4.0),
    ]
    regions = decode_regions(Detection2DArray(detections=boxes), {"cube": 7})
    assert [r.object_id for r in regions] == [7, None]
    np.testing.assert_array_equal(regions[0].box, [6, 17, 14, 23])


@pytest.mark.parametrize(
    "box", [(np.nan, 1.0, 2.0, 2.0), (1.0, 1.0, np.inf, 2.0), (1.0, -np.inf, 2.0, 2.0), (1.0, 1.0, -2.0, 2.0)]
)
def test_a_box_that_makes_no_region_is_refused_rather_than_the_worker_s_end(box):
    with pytest.raises(UnusableMessage, match="regions: region: box: wanted finite x0 < x1") as refusal:
        decode_regions(Detection2DArray(detections=[detection("cube", *box)]), {"cube": 7})
    assert refusal.value.reason == "regions"


def test_depth_is_metres_and_what_is_no_measurement_is_0():
    """REP 118, in either byte order."""
    millimetres = np.array([[0, 1500], [2, 65535]], ">u2")
    big = Image(encoding="16UC1", width=2, height=2, step=4, is_bigendian=1, data=millimetres.tobytes())
    np.testing.assert_allclose(depth_to_metres(big), [[0, 1.5], [0.002, 65.535]], rtol=1e-6)
    metres = np.array([[np.nan, np.inf], [-1.0, 0.75]], np.float32)
    floats = array_to_image(metres, "32FC1", Header())
    np.testing.assert_array_equal(depth_to_metres(floats), [[0, 0], [0, 0.75]])
    with pytest.raises(UnusableMessage, match="depth: wanted 16UC1 or 32FC1, found rgb8"):
        depth_to_metres(Image(encoding="rgb8"))
