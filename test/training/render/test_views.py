# SPDX-License-Identifier: Apache-2.0
"""Object views: what is in the files fits the mesh, and a run goes on where it stopped."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from pose_kd_ros.datasets.bop import BopDataset
from training.render import shapes
from training.render.config import RenderConfig, ViewConfig
from training.render.dataset import render_dataset
from training.render.mesh_files import Target, write_models
from training.render.views import Outline, ViewMaker, _resolved, framing, is_closed, sample_view
from training.render.writer import _depth_scale

EDGES_MM = {1: 50.0, 5: 90.0, 9: 130.0}
SIDE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, [Target(i, shapes.cube(edge / 1000), {}) for i, edge in EDGES_MM.items()])
    return folder


@pytest.fixture(scope="module")
def config(models):
    views = ViewConfig(view_px=SIDE)
    return RenderConfig(
        mesh=models, view="object", views=views, appearance="own", stand="upright", images_per_scene=6
    )


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("views")
    render_dataset(config, out, "views", 9, seed=1)
    return out


@pytest.fixture(scope="module")
def images(data):
    return BopDataset(data / "views").images


def rgba(data, image):
    path = data / "views" / f"{image.scene_id:06d}" / "rgb" / f"{image.image_id:06d}.png"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_the_objects_take_turns_through_all_scenes(images):
    assert [[i.object_id for i in image.instances] for image in images] == 3 * [[1], [5], [9]]


def test_points_of_the_depth_picture_lie_on_the_mesh(images):
    for image in images:
        (instance,) = image.instances
        z, mask = image.load_depth().astype(float), instance.load_mask()
        np.testing.assert_array_equal(mask, z > 0)
        v, u = np.nonzero(mask)
        seen = np.linalg.solve(image.K, np.stack([u, v, np.ones(len(u))])) * z[v, u]
        T = instance.T_camera_object
        points = T[:3, :3].T @ (seen - T[:3, 3:])
        off = np.abs(np.abs(points).max(0) * 1000 - EDGES_MM[instance.object_id] / 2)
        assert off.max() < 0.03  # half of a depth step of 0.05 mm, and rounding


def test_coverage_agrees_with_the_mask_up_to_a_rim_of_one_pixel(data, images):
    for image in images:
        mask = image.instances[0].load_mask().astype(np.uint8)
        alpha, pixel = rgba(data, image)[..., 3], np.ones((3, 3), np.uint8)
        inside, near = cv2.erode(mask, pixel) > 0, cv2.dilate(mask, pixel) > 0
        assert (alpha[inside] == 255).all() and (alpha[~near] == 0).all()
        assert ((alpha > 127) == mask.astype(bool))[inside | ~near].all()
        assert 0 < ((alpha > 0) & (alpha < 255)).mean() < 0.2


def test_the_object_is_in_the_middle_and_fills_its_share(images):
    for image in images:
        (instance,) = image.instances
        x, y, width, height = instance.bbox_visib
        assert max(width, height) == pytest.approx(SIDE * 2 / 3, abs=2)
        assert (x + width / 2, y + height / 2) == pytest.approx(2 * [(SIDE - 1) / 2], abs=1.1)
        assert instance.bbox_obj == instance.bbox_visib and instance.visib_fract == 1


def test_the_frame_is_about_the_vertices():
    points = np.array([[-0.3, 0.1, 1.0], [0.1, 0.2, 2.0], [0.2, 0.1, 0.5]])
    K = framing(points, 100, 0.8)
    pixels = (points @ K.T)[:, :2] / points[:, 2:]
    np.testing.assert_allclose(pixels.max(0) + pixels.min(0), 99)
    assert np.ptp(pixels, axis=0).max() == pytest.approx(80)


def test_cameras_are_where_the_options_say(config):
    outlines = {1: Outline(shapes.cube(0.05))}
    scenes = [sample_view(config, outlines, [], i, np.random.default_rng(i)) for i in range(300)]
    upright = [s for s in scenes if np.allclose(s.T_world_object[:3, :3], np.eye(3))]
    assert 0.82 < len(upright) / len(scenes) < 0.97
    centres = np.array([s.T_camera_object[:3, 3] for s in scenes])
    distance = np.linalg.norm(centres, axis=1)
    assert 3 <= (distance / outlines[1].diameter).min() < 3.3
    assert 11 < (distance / outlines[1].diameter).max() <= 12
    off_axis = np.degrees(np.arccos(centres[:, 2] / distance))
    assert 17 < off_axis.max() <= 20
    eyes = np.array([-s.T_camera_world[:3, :3].T @ s.T_camera_world[:3, 3] for s in scenes])
    elevation = np.degrees(np.arcsin(eyes[:, 2] / distance))
    assert 2 <= elevation.min() < 5 and elevation.max() <= 88
    assert np.median(elevation) == pytest.approx(30, abs=5)  # even on the sphere


def test_objects_that_stand_anyhow_are_turned_in_every_view(config):
    loose = dataclasses.replace(config, stand="any")
    outlines = {1: Outline(shapes.cube(0.05))}
    ups = [sample_view(loose, outlines, [], i, np.random.default_rng(i)) for i in range(200)]
    ups = np.array([s.T_world_object[:3, 2] for s in ups])
    assert np.abs(ups.mean(0)).max() < 0.15


def test_colour_is_not_darkened_where_a_pixel_is_partly_covered():
    samples = np.zeros((9, 9, 4), np.uint8)
    samples[:, :4] = 200, 100, 50, 255
    result = _resolved(samples)
    np.testing.assert_array_equal(result[..., 3], np.tile([255, 191, 0, 0], (4, 1)))
    np.testing.assert_array_equal(result[:, :2, :3], np.broadcast_to([200, 100, 50], (4, 2, 3)))


def test_leaving_out_the_far_side_changes_nothing(config):
    with ViewMaker(config, 1) as maker:
        assert maker.renderer.closed == set(EDGES_MM)
        with_culling = [maker(i) for i in range(6)]
        maker.renderer.closed = set()
        for i, made in enumerate(with_culling):
            again = maker(i)
            np.testing.assert_array_equal(made.depth, again.depth)
            np.testing.assert_array_equal(made.rgba, again.rgba)


def test_a_surface_is_closed_if_nothing_is_missing_or_inside_out():
    ring, cube = shapes.torus(), shapes.cube()
    assert is_closed(cube) and is_closed(ring)
    every = {f.name: getattr(cube, f.name) for f in dataclasses.fields(cube)}
    per_vertex = ("positions", "normals", "uv", "layers", "colours")
    missing = shapes.Mesh(**every | {name: every[name][3:] for name in per_vertex})
    inside_out = shapes.Mesh(**every | {name: every[name][::-1] for name in per_vertex})
    one_flipped = shapes.Mesh(
        **every | {n: np.concatenate([every[n][:3][::-1], every[n][3:]]) for n in per_vertex}
    )
    assert not any(map(is_closed, (missing, inside_out, one_flipped)))


def test_a_run_that_was_stopped_goes_on_to_the_same_files(config, data, tmp_path):
    render_dataset(config, tmp_path, "views", 6, seed=1)
    (tmp_path / "views" / ".unfinished-000001").mkdir()
    render_dataset(config, tmp_path, "views", 9, seed=1, workers=2)
    files = sorted(p.relative_to(data) for p in data.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 4 + 1 + 9 * 4 + 2 * 3  # models, recipe, pictures, json files
    assert all((data / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)
    with pytest.raises(ValueError, match=r"fill: wanted 0.5, found data rendered with 0.66"):
        changed = dataclasses.replace(config, views=dataclasses.replace(config.views, fill=0.5))
        render_dataset(changed, tmp_path, "views", 9, seed=1)


def test_new_pictures_lie_on_the_object_in_each_view():
    views = ViewConfig(view_px=SIDE)
    with ViewMaker(RenderConfig(view="object", views=views, appearance="random"), 3) as maker:
        colours = [made.rgba[made.rgba[..., 3] == 255][:, :3].mean(0) for made in map(maker, range(8))]
    assert np.std(colours, axis=0).min() > 10


def test_depth_steps_reach_as_far_as_they_must():
    assert [_depth_scale(mm) for mm in (300, 3270, 3280, 6600, 40_000)] == [0.05, 0.05, 0.1, 0.2, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RenderConfig(view="object", width=320),
            r"width: wanted its default, 640, which --view object",
        ),
        (
            lambda: RenderConfig(views=ViewConfig(fill=0.5)),
            r"ViewConfig.fill: wanted its default, .* found 0.5",
        ),
        (lambda: ViewConfig(fill=1.5), r"ViewConfig.fill: wanted 0.05..0.95, found 1.5"),
        (lambda: ViewConfig(distance_diameters=(0.5, 2)), r"wanted 1 <= low <= high, found \(0.5, 2\)"),
        (lambda: ViewConfig(view_elevation_deg=(50, 2)), r"-90 <= low <= high <= 90, found \(50, 2\)"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_recipe_holds_the_options_of_the_views(data):
    recipe = json.loads((data / "views" / "render.json").read_text())
    assert recipe["view"] == "object" and recipe["view_px"] == SIDE
    assert recipe["distance_diameters"] == [3.0, 12.0]
