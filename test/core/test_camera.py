# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pose_kd_ros.core.camera import Camera, Crop

K = np.array([[547.74, 0, 338.7], [0, 542.07, 234.51], [0, 0, 1]])
LENSES = {
    "none": ("plumb_bob", []),
    "plumb_bob": ("plumb_bob", [-0.36, 0.14, 0.001, -0.0005, -0.02]),
    "rational": ("rational_polynomial", [0.4, -0.1, 0.0003, -0.0002, 0.01, 0.75, -0.05, 0.02]),
    "equidistant": ("equidistant", [-0.02, 0.005, -0.003, 0.0006]),
}


def camera(lens="none", **change):
    model, D = LENSES[lens]
    return Camera(**{**dict(K=K, D=D, model=model, width=640, height=480), **change})


def image_grid(step=8):
    return np.stack(np.meshgrid(np.arange(0.0, 640, step), np.arange(0.0, 480, step)), -1).reshape(-1, 2)


def test_pinhole_by_hand():
    ideal = Camera(np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1]]), [], "plumb_bob", 640, 480)
    np.testing.assert_allclose(ideal.project([0.1, 0, 1]), [370, 240])
    np.testing.assert_allclose(ideal.project(np.full((2, 3, 3), 1.0)), np.full((2, 3, 2), [820, 740]))
    np.testing.assert_allclose(ideal.rays([[370, 240]]), [[0.1, 0, 1]])


@pytest.mark.parametrize("lens", LENSES)
def test_undistort_inverts_project(lens):
    cam = camera(lens)
    ideal = cam.undistort(image_grid())
    assert np.isfinite(ideal).all()
    points = np.c_[(ideal - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones(len(ideal))] * 0.7
    np.testing.assert_allclose(cam.project(points), image_grid(), atol=1e-5)
    np.testing.assert_allclose(cam.rays(image_grid()) * 0.7, points, atol=1e-9)


def test_wide_lens_needs_more_than_opencv_sweeps():
    cam = camera("plumb_bob")
    rough = cv2.undistortPoints(image_grid()[:, None], cam.K, cam.D, P=cam.K).reshape(-1, 2)
    assert np.abs(rough - cam.undistort(image_grid())).max() > 0.01


def test_distortion_formulas():
    """Against the formulas of OpenCV's documentation, written out."""
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    k1, k2, p1, p2, k3 = LENSES["plumb_bob"][1]
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    wanted = [
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    ]
    np.testing.assert_allclose(camera("plumb_bob").project([x, y, 1]), K[:2, :2] @ wanted + K[:2, 2])
    theta = np.arctan(np.sqrt(r2))
    bent = theta * (1 + np.polyval([0.0006, -0.003, 0.005, -0.02, 0], theta**2))
    wanted = np.array([x, y]) * bent / np.sqrt(r2)
    np.testing.assert_allclose(camera("equidistant").project([x, y, 1]), K[:2, :2] @ wanted + K[:2, 2])


@pytest.mark.parametrize("lens", LENSES)
def test_points_behind_are_nan(lens):
    pixels = camera(lens).project([[0, 0, -1], [0, 0, 0], [0, 0, 1]])
    assert np.isnan(pixels[:2]).all()
    np.testing.assert_allclose(pixels[2], K[:2, 2])
    assert np.isnan(camera(lens).project([[0.1, 0, -1]])).all()


def test_pixels_no_ray_reaches_are_nan():
    """Barrel distortion with k1 alone bends every ray to within r = 0.64; pixels outside have no ray."""
    cam = camera(D=[-0.36, 0, 0, 0, 0])
    assert np.isnan(cam.undistort([[338.7 + 547 * 0.7, 234.51]])).all()
    assert np.isfinite(cam.undistort([[338.7 + 547 * 0.6, 234.51]])).all()
    assert cam.undistort(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(K=np.zeros((3, 3))), "not calibrated"),
        (dict(K=np.diag([500, 0, 1.0])), "fy = 0"),
        (dict(K=np.diag([-1, 500, 1.0])), "fx = -1"),
        (dict(K=np.full((3, 3), np.nan)), "not finite"),
        (dict(K=K.T), "fx, 0, cx"),
        (dict(K=K + [[0, 3, 0], [0, 0, 0], [0, 0, 0]]), "fx, 0, cx"),
        (dict(model="fisheye62"), "distortion model: wanted one of .*plumb_bob.*, found 'fisheye62'"),
        (dict(D=[1, 2, 3]), "values or none, found 3"),
        (dict(D=[0, 0, 0, np.inf]), "D is not finite"),
        (dict(width=0), "0x480"),
    ],
)
def test_refusals(change, words):
    with pytest.raises(ValueError, match=words):
        camera(**change)


def test_is_frozen():
    with pytest.raises(ValueError):
        camera().K[0, 0] = 1


def test_crop_by_hand():
    crop = Crop(left=100, top=50, scale=2, width=64, height=64)
    np.testing.assert_allclose(crop.to_input([100, 50]), [0.5, 0.5])
    np.testing.assert_allclose(crop.to_input([99.5, 49.5]), [-0.5, -0.5])


@given(st.floats(-300, 700), st.floats(-300, 700), st.floats(0.05, 8), st.floats(-100, 100))
def test_crop_round_trip(left, top, scale, u):
    crop = Crop(left, top, scale, 64, 32)
    pixels = np.array([[u, 3.0], [0, 0]])
    np.testing.assert_allclose(crop.to_full(crop.to_input(pixels)), pixels, atol=1e-9)
    by_matrix = (crop.matrix() @ np.c_[pixels, [1, 1]].T).T[:, :2]
    np.testing.assert_allclose(by_matrix, crop.to_input(pixels), atol=1e-9)


def test_crop_camera_projects_as_the_crop_maps():
    crop, point = Crop.around((200, 100, 300, 180), 256), np.array([-0.05, 0.02, 0.6])
    inside = Camera(crop.camera(K), [], "plumb_bob", 256, 256)
    np.testing.assert_allclose(inside.project(point), crop.to_input(camera().project(point)))


def test_around_centres_the_box():
    crop = Crop.around((200, 100, 300, 180), 256, margin=1.5, stride=32)
    np.testing.assert_allclose(crop.to_input([250, 140]), [127.5, 127.5])
    np.testing.assert_allclose(crop.to_full([[-0.5, -0.5], [255.5, 255.5]]), [[175, 65], [325, 215]])
    with pytest.raises(ValueError, match="wanted a multiple of the stride 32, found 250"):
        Crop.around((200, 100, 300, 180), 250, stride=32)
    with pytest.raises(ValueError, match="x0 < x1"):
        Crop.around((300, 100, 200, 180), 256)


def test_around_enlarges_the_box_to_the_aspect():
    tall = Crop.around((200, 100, 260, 220), 256, margin=1.25, stride=32, aspect=0.75)
    assert (tall.width, tall.height) == (192, 256)
    np.testing.assert_allclose(tall.to_full([[-0.5, -0.5], [191.5, 255.5]]), [[173.75, 85], [286.25, 235]])
    wide = Crop.around((200, 100, 320, 160), 256, margin=1.0, aspect=0.75)
    np.testing.assert_allclose(wide.to_full([[-0.5, -0.5], [191.5, 255.5]]), [[200, 50], [320, 210]])
    with pytest.raises(ValueError, match="wanted a multiple of the stride 64, found 200x256"):
        Crop.around((200, 100, 260, 220), 256, stride=64, aspect=200 / 256)


def test_whole():
    assert Crop.whole(640, 480, stride=32) == Crop(0, 0, 1, 640, 480)
    assert Crop.whole(640, 480, max_size=320, stride=64) == Crop(0, 0, 0.5, 320, 256)
    assert Crop.whole(100, 70, max_size=320, stride=32) == Crop(0, 0, 1, 128, 96)


def test_apply_identity_border_and_channels():
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    np.testing.assert_array_equal(Crop.whole(64, 48).apply(image), image)
    shifted = Crop(-10, 0, 1, 64, 48, border=114).apply(image)
    assert (shifted[:, :10] == 114).all()
    np.testing.assert_array_equal(shifted[:, 10:], image[:, :54])
    assert Crop.whole(64, 48).apply(image[..., 0]).shape == (48, 64)


@pytest.mark.parametrize("scale", [3.0, 1.3, 1.0, 0.8, 0.5, 0.3, 0.11])
def test_apply_puts_a_blob_where_to_input_says(scale):
    """A smooth blob's centroid is where the formula puts it, within a fiftieth of an input pixel."""
    centre, sigma = np.array([210.3, 144.6]), 5 / scale
    v, u = np.mgrid[:301, :407]
    image = np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / (2 * sigma**2)).astype(np.float32)
    crop = Crop.around((*(centre - 32 / scale + 1.7), *(centre + 32 / scale + 1.7)), 64, margin=1.0)
    out = crop.apply(image)
    v, u = np.mgrid[:64, :64]
    found = np.array([(out * u).sum(), (out * v).sum()]) / out.sum()
    if scale < 0.2:  # the blob leaves the image: compare its peak instead
        found = np.array(np.unravel_index(out.argmax(), out.shape)[::-1], float)
    np.testing.assert_allclose(found, crop.to_input(centre), atol=0.02 if scale >= 0.2 else 0.6)


def test_shrinking_averages():
    """A one-pixel checkerboard shrunk by 5 is grey, not a moire pattern."""
    board = ((np.indices((480, 640)).sum(0) % 2) * 255).astype(np.uint8)
    out = Crop.whole(640, 480, max_size=128).apply(board)
    assert np.abs(out.astype(int)[2:-2, 2:-2] - 127).max() <= 6
