# SPDX-License-Identifier: Apache-2.0
"""Labels against geometry worked out by hand: projection, ray casting, constructed occlusion."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from training.render.gl import Renderer, clip_from_camera
from training.render.labels import bounding_box, instance_labels, uncovered
from training.render.scene import Body, Light, Scene, Stock, target_name, transform
from training.render.shapes import box, cube

WIDTH, HEIGHT = 160, 120
K = np.array([[150.0, 0, 77.3], [0, 148.0, 61.8], [0, 0, 1]])
EDGE = 0.084
HALF = EDGE / 2 * np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


@pytest.fixture(scope="module")
def renderer():
    with Renderer(Stock({target_name(1): cube(EDGE), "box": box()}, [], (), {}), WIDTH, HEIGHT) as made:
        yield made


def scene_of(*bodies, ambient=1.0):
    """Camera in the world's origin, looking along +z: world and camera coordinates are the same."""
    light = Light(np.array([0, 0, -1.0, 0]), np.zeros(3))
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    grey = np.full(3, ambient)
    return Scene(
        tuple(bodies), (light,), grey, grey, K, np.eye(4), black, np.array([0, 0, 0.5]), 1.0, 1.0, 0.0
    )


def target(rotation_vector, translation, label=1):
    return Body(
        target_name(1), transform(Rotation.from_rotvec(rotation_vector).as_matrix(), translation), label=label
    )


def project(points):
    image = points @ K.T
    return image[:, :2] / image[:, 2:]


def analytic_mask(corners, margin=0):
    """Pixels whose centre lies in the hull of the projected corners, and those too near its border to
    tell."""
    hull = cv2.convexHull(project(corners).astype(np.float32))
    signed = np.array(
        [
            [cv2.pointPolygonTest(hull, (float(u), float(v)), True) for u in range(-margin, WIDTH + margin)]
            for v in range(-margin, HEIGHT + margin)
        ]
    )
    return signed > 0, np.abs(signed) < 2e-3


POSES = [
    ((0.3, -0.5, 0.2), (0.02, -0.01, 0.4)),
    ((2.0, 1.0, -0.4), (-0.05, 0.03, 0.6)),
    ((0, 0, 0), (0.0, 0.0, 0.3)),
    ((0.1, 0.9, 2.2), (0.1, 0.08, 1.2)),
]


@pytest.mark.parametrize("rotation, translation", POSES)
def test_mask_is_the_projected_cube(renderer, rotation, translation):
    body = target(rotation, translation)
    [label], _ = instance_labels(renderer, scene_of(body))
    corners = HALF @ body.T_world_body[:3, :3].T + body.T_world_body[:3, 3]
    wanted, unsure = analytic_mask(corners)
    assert wanted.sum() > 50
    np.testing.assert_array_equal(label.mask[~unsure], wanted[~unsure])
    np.testing.assert_array_equal(label.T_camera_object, body.T_world_body)


@pytest.mark.parametrize("rotation, translation", POSES)
def test_depth_is_where_the_ray_meets_the_cube(renderer, rotation, translation):
    body = target(rotation, translation)
    depth = renderer.labels(scene_of(body)).depth
    for v, u in np.argwhere(depth > 0)[::37]:
        pose = body.T_world_body
        origin = -pose[:3, :3].T @ pose[:3, 3]
        ray = pose[:3, :3].T @ np.linalg.solve(K, [u, v, 1.0])
        near = np.minimum((EDGE / 2 - origin) / ray, (-EDGE / 2 - origin) / ray).max()
        assert depth[v, u] == pytest.approx(near, abs=2e-6)


def test_a_truncated_cube_counts_its_pixels_outside_the_picture(renderer):
    body = target((0.3, 0.2, 0.1), (-0.2, -0.15, 0.4))
    [label], _ = instance_labels(renderer, scene_of(body))
    corners = HALF @ body.T_world_body[:3, :3].T + body.T_world_body[:3, 3]
    wanted, unsure = analytic_mask(corners, margin=60)
    assert abs(label.pixels_all - wanted.sum()) <= unsure.sum()
    assert 0 < label.pixels_visible == label.pixels_valid < label.pixels_all
    x, y, w, h = label.bbox_obj
    low, high = project(corners).min(0), project(corners).max(0)
    np.testing.assert_array_equal([x, y, x + w, y + h], [*np.ceil(low), *np.floor(high)])


BESIDE = [((0.3, 0.2, 0.1), (-0.2, -0.15, 0.4)), ((0, 0, 0.4), (0.6, 0, 0.3)), ((1, 0, 0), (0.03, 0, 0.05))]


@pytest.mark.parametrize("rotation, translation", POSES + BESIDE)
def test_a_silhouette_is_the_same_drawn_in_its_window_or_on_the_whole_canvas(renderer, rotation, translation):
    """Inside the picture, cut by its rim, beside the canvas, and so near that a part is behind the camera."""
    body = target(rotation, translation)
    part, (column, row) = renderer.silhouette(scene_of(body), body)
    drawn = np.zeros((3 * HEIGHT, 3 * WIDTH), bool)
    place = slice(HEIGHT - row, HEIGHT - row + part.shape[0]), slice(WIDTH - column, None)
    drawn[place][:, : part.shape[1]] = part
    clip = clip_from_camera(K, 3 * WIDTH, 3 * HEIGHT, (WIDTH, HEIGHT))
    with renderer.ctx:
        whole = renderer._draw_labels(renderer.large_fbo, clip, (body,), (0, 0, 3 * WIDTH, 3 * HEIGHT))
    np.testing.assert_array_equal(drawn, whole[..., 0] > 0)
    inner = drawn[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
    np.testing.assert_array_equal(renderer.alone(scene_of(body), body), inner)


def test_visible_share_of_a_half_covered_cube(renderer):
    """A wall ends at column 77.3 (x = 0): the front face of a centred cube is seen in the columns left of
    it."""
    body = target((0, 0, 0), (0, 0, 0.4))
    wall = Body("box", transform(np.eye(3), [0.5, 0, 0.2], np.array([1.0, 2.0, 0.01])))
    [label], _ = instance_labels(renderer, scene_of(body, wall))
    wanted, _ = analytic_mask(HALF + [0, 0, 0.4])
    left = wanted & (np.arange(WIDTH) < K[0, 2])
    np.testing.assert_array_equal(label.mask_visible, left)
    assert label.visible_share == pytest.approx(left.sum() / wanted.sum())
    assert label.bbox_visib == bounding_box(left)


def test_the_nearer_of_two_cubes_hides_the_other(renderer):
    near, far = target((0, 0, 0), (0, 0, 0.3), 1), target((0, 0, 0), (0.12, 0, 0.6), 2)
    (first, second), seen = instance_labels(renderer, scene_of(near, far))
    assert first.visible_share == 1.0 and 0 < second.visible_share < 0.9
    assert (seen.instance == 2).sum() == second.pixels_visible
    assert not (first.mask_visible & second.mask_visible).any()


def test_occluders_that_hide_too_much_are_taken_away(renderer):
    body = target((0, 0, 0), (0, 0, 0.4))
    wall = Body("box", transform(np.eye(3), [0, 0, 0.2], np.array([1.0, 1.0, 0.01])), occluder=True)
    scene, [label], _ = uncovered(renderer, scene_of(body, wall), 0.3)
    assert scene.bodies == (body,) and label.visible_share == 1.0


def test_an_instance_out_of_the_picture_gets_no_label(renderer):
    assert instance_labels(renderer, scene_of(target((0, 0, 0), (0, 0, -0.5))))[0] == []
    assert instance_labels(renderer, scene_of(target((0, 0, 0), (3.0, 0, 0.5))))[0] == []


@pytest.mark.parametrize("rotation, translation", POSES)
def test_the_picture_lies_on_the_projected_cube(renderer, rotation, translation):
    """An evenly white cube on black: area and centre of gravity are those of the projected outline."""
    body = target(rotation, translation)
    scene = scene_of(body)
    white = renderer.image(scene)[..., 1].astype(float)
    white /= white.max()
    corners = HALF @ body.T_world_body[:3, :3].T + body.T_world_body[:3, 3]
    outline = cv2.moments(cv2.convexHull(project(corners).astype(np.float32)))
    assert white.sum() == pytest.approx(outline["m00"], rel=0.02)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    for axis, moment in ((u, "m10"), (v, "m01")):
        assert (axis * white).sum() / white.sum() == pytest.approx(outline[moment] / outline["m00"], abs=0.1)
    mask = renderer.labels(scene).instance > 0
    assert white[cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=0) > 0].min() > 0.97
    assert white[cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) == 0].max() == 0


def test_light_makes_faces_differ(renderer):
    scene = scene_of(target((0.6, 0.7, 0), (0, 0, 0.4)), ambient=0.05)
    lamp = Light(np.array([-1.0, -0.3, -0.2, 0]), np.ones(3))
    mask = renderer.labels(scene).instance > 0
    lit = renderer.image(dataclasses.replace(scene, lights=(lamp,)))[..., 0][mask]
    assert np.percentile(lit, 95) > 2 * np.percentile(lit, 5)


def test_two_renderers_in_one_process_do_not_mix(renderer):
    scene = scene_of(target(*POSES[0]))
    image, labels = renderer.image(scene), renderer.labels(scene)
    stock = Stock({target_name(1): cube(2 * EDGE)}, [], (), {})
    with Renderer(stock, WIDTH, HEIGHT, samples=1) as other:
        large = other.labels(scene).instance > 0
        np.testing.assert_array_equal(renderer.image(scene), image)
        np.testing.assert_array_equal(renderer.labels(scene).depth, labels.depth)
        np.testing.assert_array_equal(other.labels(scene).instance > 0, large)
        assert large.sum() > 3 * (labels.instance > 0).sum()
    np.testing.assert_array_equal(renderer.image(scene), image)


def held():
    """(memory maps, open files, threads) of this process."""
    counted = [len(list(Path("/proc/self", what).iterdir())) for what in ("fd", "task")]
    return np.array([len(Path("/proc/self/maps").read_text().splitlines()), *counted])


def test_two_hundred_renderers_leave_nothing_behind():
    """One that stays is 10 to 50 memory maps, mostly code. Every twentieth fails: its last mesh is none."""
    good = Stock({target_name(1): cube(EDGE)}, [], (), {})
    textured = dataclasses.replace(cube(EDGE), texture=np.zeros((64, 64, 3), np.uint8))
    broken = Stock({target_name(1): textured, "none": None}, [], (), {})
    scene = scene_of(target(*POSES[0]))
    for count in range(1, 201):
        with Renderer(good, WIDTH, HEIGHT) as made:
            assert made.labels(scene).instance.any()
        if count % 20 == 0:
            with pytest.raises(AttributeError):
                Renderer(broken, WIDTH, HEIGHT)
        if count == 40:
            before = held()
    assert (held() - before <= [20, 0, 0]).all()
