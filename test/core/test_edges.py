# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from pose_kd_ros.core import edges
from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.edges import Refused, refine_on_edges, sample_edges
from pose_kd_ros.core.mesh import Mesh, cast
from pose_kd_ros.core.metrics import error_vector, squared_mahalanobis
from pose_kd_ros.core.pose import from_rotation_vector, inverse, make_pose, transform
from pose_kd_ros.core.refine import moved
from test.core.test_mesh import BOX, joined, placed

K = np.array([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]])
CAMERA = Camera(K, np.zeros(0), "plumb_bob", 640, 480)
BENT = Camera(K, np.array([-0.25, 0.1, 0.001, -0.001]), "plumb_bob", 640, 480)
POSE = make_pose(from_rotation_vector((0.6, 0.5, 0.1)), (0.02, -0.01, 0.5))
UNSURE = np.diag([0.003, 0.003, 0.01, 0.05, 0.05, 0.05]) ** 2  # of refine's convention
GREYS = [60, 200, 110, 160, 90, 230]  # of the box's sides


def draw(mesh, pose, camera=CAMERA, ground=20, greys=None):
    """A picture (H, W) of a mesh: each pair of triangles in a grey of its own, noise, no texture."""
    corners = camera.project(transform(pose, mesh.vertices))
    low, high = (
        np.clip(ends, 0, (640, 480)).astype(int) for ends in (corners.min(0) - 9, corners.max(0) + 9)
    )
    v, u = np.mgrid[low[1] : high[1], low[0] : high[0]]
    depth, face = cast(mesh, pose, camera.rays(np.stack([u, v], -1).reshape(-1, 2)))
    colours = np.resize(GREYS, len(mesh.triangles))[face // 2] if greys is None else greys[face]
    image = np.full((camera.height, camera.width), float(ground))
    image[v, u] = np.where(np.isfinite(depth), colours, ground).reshape(v.shape)
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + np.random.RandomState(0).normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def start_of(seed, pose=POSE, covariance=UNSURE):
    return moved(pose, np.sqrt(np.diag(covariance)) * np.random.RandomState(seed).uniform(-1, 1, 6))


def errors(pose, true=POSE):
    change = error_vector(pose, true)
    return np.linalg.norm(change[:3]), np.linalg.norm(change[3:])


@pytest.mark.parametrize("camera", [CAMERA, BENT], ids=["pinhole", "plumb_bob"])
@pytest.mark.parametrize("seed", range(4))
def test_a_rendered_box_is_found_to_a_millimetre(seed, camera):
    start = start_of(seed)
    refined = refine_on_edges(draw(BOX, POSE, camera), camera, BOX, start, UNSURE)
    shift, turn = errors(refined.pose)
    assert shift < 0.001 and turn < 0.008 and refined.agreement > 0.8
    assert shift < errors(start)[0] / 2


def test_a_colour_picture_gives_the_same():
    image = draw(BOX, POSE)
    start = start_of(1)
    grey = refine_on_edges(image, CAMERA, BOX, start, UNSURE)
    colour = refine_on_edges(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), CAMERA, BOX, start, UNSURE)
    np.testing.assert_allclose(colour.pose, grey.pose, atol=1e-6)


def test_the_covariance_holds_the_error_and_is_smaller_than_before():
    image, held = draw(BOX, POSE), 0
    for seed in range(10):
        refined = refine_on_edges(image, CAMERA, BOX, start_of(seed), UNSURE)
        held += squared_mahalanobis(refined.pose, refined.covariance, POSE) < 12.6
        assert np.linalg.det(refined.covariance) < np.linalg.det(UNSURE)
    assert held >= 9


@pytest.mark.parametrize("seed", range(3))
def test_an_occluder_and_clutter_do_not_pull_it_away(seed):
    image = draw(BOX, POSE)
    cv2.rectangle(image, (300, 100), (335, 420), 130, -1)  # covers a fifth of the box
    random = np.random.RandomState(seed)
    for _ in range(40):
        a = random.randint(0, 480, 2)
        if np.linalg.norm(a - (340, 225)) > 110:
            cv2.line(image, tuple(a.tolist()), tuple((a + random.randint(-40, 40, 2)).tolist()), 250, 2)
    refined = refine_on_edges(image, CAMERA, BOX, start_of(seed), UNSURE)
    assert errors(refined.pose)[0] < 0.002 and errors(refined.pose)[1] < 0.015


def test_hidden_edges_are_not_sampled(monkeypatch):
    """A small box hides the corner that is nearest to the camera; the sides there turn to the camera."""
    eye = inverse(POSE)[:3, 3]
    corner = BOX.vertices[np.linalg.norm(BOX.vertices - eye, axis=1).argmin()]
    both = joined(BOX, placed(BOX.scaled(0.3), corner + 0.2 * (eye - corner)))
    points, _ = sample_edges(both, POSE, K)
    monkeypatch.setattr(edges, "is_seen", lambda mesh, pose, points: np.ones(len(points), bool))
    everything, _ = sample_edges(both, POSE, K)

    def near(points):
        return int((np.linalg.norm(points - corner, axis=1) < 0.01).sum())

    assert near(everything) > 5 and near(points) == 0 and len(points) > 0.7 * len(everything)


def test_hidden_edges_would_pull_the_pose_away(monkeypatch):
    """A plate hides all edges of the box behind it, and its outline lies a few pixels outside theirs."""
    pose = make_pose(from_rotation_vector((0.03, -0.02, 0.05)), (0.0, 0.0, 0.6))
    plate = Mesh(BOX.vertices * (0.92, 0.92, 0.1), BOX.triangles, BOX.sharp)
    covered = joined(BOX, placed(plate, (0.0, 0.0, -0.1)))
    image, start = draw(covered, pose), start_of(3, pose)
    good = errors(refine_on_edges(image, CAMERA, covered, start, UNSURE).pose, pose)
    monkeypatch.setattr(edges, "is_seen", lambda mesh, pose, points: np.ones(len(points), bool))
    blind = errors(refine_on_edges(image, CAMERA, covered, start, UNSURE).pose, pose)
    assert good[0] < 0.003 < blind[0]


def test_a_turn_that_no_edge_shows_stays_as_it_was():
    """A bottle's: a prism of many sides has an outline and two rims, whatever its turn."""
    angles = np.arange(64) * 2 * np.pi / 64
    ring = np.stack([0.03 * np.cos(angles), np.zeros(64), 0.03 * np.sin(angles)], -1)
    vertices = np.concatenate([ring - (0, 0.06, 0), ring + (0, 0.06, 0), [(0, -0.06, 0), (0, 0.06, 0)]])
    i = np.arange(64)
    j = (i + 1) % 64
    sides = [(i, i + 64, j), (j, i + 64, j + 64), (i * 0 + 64 * 2, i, j), (i * 0 + 129, j + 64, i + 64)]
    triangles = np.concatenate([np.stack(side, -1) for side in sides])
    bottle = Mesh.of_faces(vertices, triangles)
    pose = make_pose(from_rotation_vector((0.5, 0.0, 0.2)), (0, 0, 0.5))
    greys = np.where(np.abs(bottle.normals[:, 1]) > 0.9, 220.0, 120.0)
    start = moved(pose, [0.002, -0.001, 0.006, 0.02, 0.0, -0.02])
    refined = refine_on_edges(draw(bottle, pose, greys=greys), CAMERA, bottle, start, UNSURE)
    axis = refined.pose[:3, 1]
    assert abs((error_vector(refined.pose, start)[3:]) @ axis) < 0.01
    assert np.arccos(axis @ pose[:3, 1]) < 0.01
    assert axis @ refined.covariance[3:, 3:] @ axis > 0.5 * UNSURE[3, 3]


def test_nothing_is_found_outside_the_image():
    """A line that ends at the rim does not go on beyond it."""
    image = np.full((480, 640), 60, np.uint8)
    image[200:] = 200
    pixels, normal = np.array([[30.0, 201.0], [-30.0, 201.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    found = edges.nearest_edges(image, CAMERA, pixels, normal, np.array([3.0, 3.0]))
    assert found[0] == pytest.approx(-1.5, abs=0.1) and np.isnan(found[1])


def refusal(image, mesh, start, covariance):
    with pytest.raises(Refused) as caught:
        refine_on_edges(image, CAMERA, mesh, start, covariance)
    return caught.value.reason


def test_no_edge_in_the_image_is_refused():
    assert refusal(np.full((480, 640), 90, np.uint8), BOX, POSE, UNSURE) == "few_agree"


def test_an_object_too_small_to_see_is_refused():
    assert refusal(draw(BOX, POSE), BOX, moved(POSE, [0, 0, 20, 0, 0, 0]), UNSURE) == "too_small"


def test_an_object_behind_the_camera_is_refused():
    assert refusal(draw(BOX, POSE), BOX, moved(POSE, [0, 0, -0.5, 0, 0, 0]), UNSURE) == "too_small"


def test_a_move_beyond_the_covariance_is_refused():
    """Sure to a tenth of a millimetre, six of them off."""
    start = moved(POSE, [0.006, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert refusal(draw(BOX, POSE), BOX, start, UNSURE / 900) in ("too_far", "few_agree")
    assert refine_on_edges(draw(BOX, POSE), CAMERA, BOX, start, 9 * UNSURE).agreement > 0.8
