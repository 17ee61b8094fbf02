# SPDX-License-Identifier: Apache-2.0
"""Poses refined on depth images that are aligned to the camera's, matched by stamp."""

import dataclasses
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import RADIUS, write_disc_bundle
from rclpy.qos import qos_profile_sensor_data
from rig import FOCAL, FRAME, RED, Rig, picture, position, to_time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from pose_kd_ros.bundle.manifest import mesh_file
from pose_kd_ros.bundle.store import open_bundle, write_bundle
from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.mesh import Mesh, cast
from pose_kd_ros.core.pose import make_pose
from pose_kd_ros.nodes import depth as depth_module
from pose_kd_ros.nodes.depth import KEPT, DepthBuffer
from pose_kd_ros.nodes.encode_messages import array_to_image
from pose_kd_ros.nodes.health import Health

DISC = (150, 110, 30)
WALL = 0.9
CAMERA = Camera([[FOCAL, 0, 160], [0, FOCAL, 120], [0, 0, 1]], (), "plumb_bob", 320, 240)
NANO = 1_000_000_000


def sphere(around=16, rings=9):
    heights, turns = np.linspace(-0.95, 0.95, rings)[:, None], np.arange(around) * 2 * np.pi / around
    flat = np.sqrt(1 - heights**2)
    grid = np.stack([flat * np.cos(turns), flat * np.sin(turns), heights + 0 * turns], -1).reshape(-1, 3)
    a = np.arange(around * (rings - 1))
    b = a - a % around + (a + 1) % around
    first, last = np.arange(around), np.arange(around) + around * (rings - 1)
    bottom, top = np.full(around, len(grid)), np.full(around, len(grid) + 1)
    parts = [
        (a, b, a + around),
        (b, b + around, a + around),
        (bottom, np.roll(first, -1), first),
        (top, last, np.roll(last, -1)),
    ]
    triangles = np.concatenate([np.stack(part, -1) for part in parts])
    return Mesh.of_faces(RADIUS * np.concatenate([grid, [(0, 0, -1), (0, 0, 1)]]), triangles)


BALL = sphere()


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """The bundle of balls with a mesh of the red one."""
    folder = tmp_path_factory.mktemp("bundles")
    plain = open_bundle(write_disc_bundle(folder / "plain"))
    np.savez(folder / mesh_file(1), vertices=BALL.vertices, triangles=BALL.triangles, sharp=BALL.sharp)
    files = {name: plain.folder / name for name in plain.manifest.files}
    files[mesh_file(1)] = folder / mesh_file(1)
    manifest = dataclasses.replace(plain.manifest, files=dict.fromkeys(files, ""))
    return str(write_bundle(folder / "discs", manifest, files).folder)


def measured(place):
    """Depth (240, 320), metres, of a ball at a place before a wall."""
    v, u = np.mgrid[60:160, 100:200]
    depth, _ = cast(BALL, make_pose(np.eye(3), place), CAMERA.rays(np.stack([u, v], -1).reshape(-1, 2)))
    image = np.full((240, 320), WALL)
    image[v, u] = np.where(np.isfinite(depth), depth, WALL).reshape(v.shape)
    return image


class Eye:
    """The depth half of a camera."""

    def __init__(self, rig):
        node = rig.ros.node("depth_camera")
        self.publisher = node.create_publisher(Image, "depth", qos_profile_sensor_data)
        assert rig.ros.until(self.publisher.get_subscription_count, 10)

    def say(self, stamp, metres, encoding="32FC1", frame=FRAME):
        millimetres = encoding == "16UC1"
        array = np.round(1e3 * metres).astype(np.uint16) if millimetres else metres.astype(np.float32)
        message = array_to_image(array, encoding, Header(frame_id=frame, stamp=to_time(stamp)))
        self.publisher.publish(message)


def start(ros, discs, **parameters):
    settings = {"use_depth": True, "refine": "none", "smooth": False, "depth_timeout": 0.3, **parameters}
    rig = Rig(ros, bundle=discs, threads=1, **settings).connect()
    return rig, Eye(rig)


def z_of(rig, index=0):
    return rig.detections[-1].detections[index].results[0].pose.pose.position.z


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_poses_are_moved_onto_the_depth_of_the_images_stamp(ros, discs, encoding):
    rig, eye = start(ros, discs)
    ball = picture((*DISC, RED))
    # The ball of that size is at 0.5 m; depth says that it is 8 mm farther, and other stamps say nonsense.
    true = position(*DISC) + (0, 0, 0.008)
    for k in range(3):
        stamp = rig.stamp + 0.04
        for other in (-0.04, 0.04):
            eye.say(stamp + other, np.full((240, 320), 0.3), encoding)
        eye.say(stamp + 0.002, measured(true), encoding)
        rig.pause(0.1)
        status = rig.show(ball)
        assert z_of(rig) == pytest.approx(true[2], abs=0.002), k
        assert status["depth_used"] == status["refine_depth_refined"] == k + 1
        assert "depth" in status["stages_ms"]
    values = rig.diagnosis()[2]
    assert values["depth_used"] == values["refine_depth_refined"] == "3" and "depth_missing" not in values


def test_the_depth_image_may_come_later_than_the_image_and_is_not_waited_for_longer_than_asked(ros, discs):
    rig, eye = start(ros, discs, depth_timeout=1.0)
    ball, true = picture((*DISC, RED)), position(*DISC) + (0, 0, 0.008)
    depth = measured(true)
    rig.camera.info()
    rig.pause(0.1)
    eye.say(100.0, depth)
    rig.camera.image(100.04, ball)
    rig.pause(0.2)
    assert not rig.statuses
    eye.say(100.04, depth)
    assert ros.until(lambda: rig.statuses, 10)
    assert rig.status()["depth_used"] == 1 and z_of(rig) == pytest.approx(true[2], abs=0.002)
    start_at = time.monotonic()
    eye.say(100.05, depth)
    rig.camera.image(100.08, ball)
    assert ros.until(lambda: len(rig.statuses) == 2, 10)
    assert 1.0 < time.monotonic() - start_at and rig.status()["depth_missing"] == 1
    rig.stamp = 100.08
    eye.say(101.0, depth)  # later than the next frame, whose depth was lost
    rig.pause(0.1)
    assert rig.show(ball)["stages_ms"]["depth"] < 200
    assert rig.diagnosis()[1] == "depth: wanted one within 10 ms of each image, found none in time"


def test_without_any_depth_no_frame_waits_and_the_diagnosis_says_why(ros, discs, monkeypatch):
    monkeypatch.setattr(depth_module, "QUIET_S", 0.5)
    rig, _ = start(ros, discs, depth_timeout=1.0)
    rig.pause(0.6)
    status = rig.show(picture((*DISC, RED)))
    assert status["tracks"] and status["stages_ms"]["depth"] < 200
    assert status["depth_used"] == 0 and status["depth_missing"] == 1
    level, text, _ = rig.diagnosis()
    assert level == b"\x01" and text.startswith("depth: wanted depth images, found none for")
    assert text.endswith("(/depth: /depth_camera publishes sensor_msgs/msg/Image (best_effort, volatile))")


def test_depth_that_is_not_the_images_is_refused_in_one_sentence_and_the_frame_goes_on(ros, discs):
    rig, eye = start(ros, discs)
    ball, depth = picture((*DISC, RED)), measured(position(*DISC))
    wrong = [
        ({"metres": depth[::2, ::2]}, f"depth: wanted 320x240 of '{FRAME}', as the image is, found 160x120"),
        ({"metres": depth, "frame": "other"}, "as the image is, found 320x240 of 'other'"),
        ({"metres": depth, "encoding": "mono16"}, "depth: wanted 16UC1 or 32FC1, found mono16"),
    ]
    for said, sentence in wrong:
        metres = said.pop("metres")
        if said.get("encoding"):
            message = array_to_image(metres.astype(np.uint16), "mono16", Header(frame_id=FRAME))
            message.header.stamp = to_time(rig.stamp + 0.04)
            eye.publisher.publish(message)
        else:
            eye.say(rig.stamp + 0.04, metres, **said)
        rig.pause(0.1)
        status = rig.show(ball)
        assert status["tracks"] and status["depth_used"] == 0
        level, text, values = rig.diagnosis()
        assert level == b"\x01" and sentence in text
    assert values["depth_refused_not_aligned"] == "2" and values["depth_refused_encoding"] == "1"
    eye.say(rig.stamp + 0.04, depth)
    rig.pause(0.1)
    assert rig.show(ball)["depth_used"] == 1 and rig.diagnosis()[0] == b"\x00"


def test_depth_that_says_another_pose_than_the_covariance_allows_moves_nothing(ros, discs):
    rig, eye = start(ros, discs)
    for shift in (0.0, 0.1):
        eye.say(rig.stamp + 0.04, measured(position(*DISC) + (0, 0, shift)))
        rig.pause(0.1)
        status = rig.show(picture((*DISC, RED)))
    assert status["depth_used"] == 2 and status["refine_depth_refined"] == 1
    assert z_of(rig) == pytest.approx(0.5, abs=0.03)
    assert sum(n for name, n in status.items() if name.startswith("refine_depth_")) == 2


def test_an_empty_frame_and_one_without_meshes_wait_for_no_depth(ros, discs):
    rig, _ = start(ros, discs, depth_timeout=1.0)
    status = rig.show(picture((*DISC, (0, 255, 0))))
    assert status["tracks"] and status["stages_ms"]["depth"] < 200
    assert rig.show(picture())["depth_used"] == 0 and "depth_missing" not in rig.status()


def test_a_bundle_without_meshes_is_refused_with_use_depth(ros, tmp_path):
    plain = str(write_disc_bundle(tmp_path / "plain"))
    rig = Rig(ros, bundle=plain, threads=1, camera=False, use_depth=True)
    assert rig.state == "unconfigured" and "wanted a mesh of an object" in rig.diagnosis()[1]


def test_nobody_listens_to_depth_unless_it_is_wanted(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, camera=False)
    assert not rig.pose_node.get_subscriptions_info_by_topic("/depth")


def test_all_counts_begin_when_the_node_activates(ros, discs):
    rig, eye = start(ros, discs)
    eye.say(rig.stamp + 0.04, measured(position(*DISC)))
    rig.pause(0.1)
    assert rig.show(picture((*DISC, RED)))["refine_depth_refined"] == 1
    rig.pose_node.trigger_deactivate()
    rig.pose_node.trigger_activate()
    rig.connect()
    status = rig.show(picture((*DISC, RED)))
    assert "refine_depth_refined" not in status and status["depth_missing"] == 1


def image_at(seconds):
    return array_to_image(
        np.ones((2, 2), np.float32), "32FC1", Header(frame_id="eye", stamp=to_time(seconds))
    )


def test_memory_is_bounded_and_the_frame_under_way_keeps_its_own():
    health = Health()
    buffer = DepthBuffer(health, lambda: "")
    buffer.put(image_at(1.0))
    buffer.expect(1 * NANO)
    for k in range(20):
        buffer.put(image_at(1.05 + 0.05 * k))
    assert len(buffer._waiting) == KEPT
    np.testing.assert_array_equal(buffer.take("eye", (2, 2), 0.0), np.ones((2, 2)))
    buffer.expect(1 * NANO)
    assert buffer.take("eye", (2, 2), 5.0) is None  # gone, and later ones are there: no wait
    buffer.expect(2 * NANO)
    buffer.clear()
    assert buffer.take("eye", (2, 2), 5.0) is None
    assert health.depth == {"used": 1, "missing": 2}


def test_the_nearest_stamp_counts():
    buffer = DepthBuffer(Health(), lambda: "")
    for stamp in (0.994, 1.001, 1.004):
        buffer.put(image_at(stamp))
    buffer.expect(1 * NANO)
    assert buffer._match.header.stamp == to_time(1.001)
    buffer.expect(int(1.015 * NANO))
    assert buffer._match is None


def test_one_that_comes_while_it_is_waited_for_wakes_the_worker():
    buffer = DepthBuffer(Health(), lambda: "")
    buffer.expect(1 * NANO)
    timer = threading.Timer(0.1, buffer.put, [image_at(1.0)])
    timer.start()
    assert buffer.take("eye", (2, 2), 5.0) is not None
    timer.join()
