# SPDX-License-Identifier: Apache-2.0
"""The surface family from object views to a bundle: composed crops, losses, a run that is stopped, export."""

import contextlib
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moderngl")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from pose_kd_ros.core.camera import Camera  # noqa: E402
from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries  # noqa: E402
from pose_kd_ros.core.pose import from_rotation_vector, make_pose, transform  # noqa: E402
from pose_kd_ros.pipeline.families import make_estimator  # noqa: E402
from pose_kd_ros.pipeline.network import load_network  # noqa: E402
from training.config import RunConfig, load_config  # noqa: E402
from training.data.augment import AugmentConfig  # noqa: E402
from training.data.compose import Composed, Pasted, collate_surface, depth_at, surface_points, tied_maps  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.data.dense_targets import BACKGROUND, UNUSED  # noqa: E402
from training.data.views import View, Views, read_view, spread  # noqa: E402
from training.export.network import trained_network  # noqa: E402
from training.export.run import export_run  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.train import Stopped, make_dataset, train  # noqa: E402
from training.losses.surface import nearest_distance, surface_losses  # noqa: E402
from training.models.surface import Surface, SurfaceConfig  # noqa: E402
from training.render import shapes  # noqa: E402
from training.render.config import RenderConfig, ViewConfig  # noqa: E402
from training.render.dataset import render_dataset  # noqa: E402
from training.render.mesh_files import Target, write_models  # noqa: E402

EDGES = {1: 0.05, 5: 0.09}
CROPS = CropConfig(size=64, margin=1.25, roll_deg=30.0, search_share=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Views of two cubes without symmetries, of 64 px."""
    out = tmp_path_factory.mktemp("views")
    write_models(out / "meshes", [Target(i, shapes.cube(edge), {}) for i, edge in EDGES.items()])
    config = RenderConfig(
        mesh=out / "meshes", view="object", views=ViewConfig(view_px=64), images_per_scene=8
    )
    render_dataset(config, out, "views", 16, seed=1)
    render_dataset(config, out, "views_val", 8, seed=2)
    return out


def settings(data, runs, **changes):
    return RunConfig(
        **{
            "name": "surface",
            "data": data,
            "split": "views",
            "val_split": "",
            "runs": runs,
            "network": SurfaceConfig("darknet-tiny-h", width=16, classes=2),
            "crops": CROPS,
            "augment": AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0),
            "steps": 6,
            "batch_size": 2,
            "workers": 0,
            "precision": "32-true",
            "accelerator": "cpu",
            "average": 0.5,
            "encoder_lr": 0.3,
            "checkpoint_every": 2,
            "log_every": 2,
            "val_every": 6,
        }
        | changes
    )


def dataset(data, tmp_path, **crops):
    return make_dataset(settings(data, tmp_path, crops=dataclasses.replace(CROPS, **crops)), "views")


# views


def test_packed_views_are_those_of_the_files(data):
    views = Views(data / "views")
    assert len(views) == 16 and sorted(views.of_object) == [1, 5]
    from pose_kd_ros.datasets.bop import BopDataset

    for index, image in enumerate(BopDataset(data / "views").images):
        view, file = views[index], read_view(image)
        assert np.array_equal(view.rgba[..., 3], file.rgba[..., 3])
        seen = file.rgba[..., 3] > 0
        assert np.array_equal(view.rgba[seen], file.rgba[seen])
        assert np.allclose(view.depth, file.depth, atol=1e-4)
        assert np.array_equal(view.T_camera_object, file.T_camera_object)


def test_colours_go_on_beyond_the_rim():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[5:11, 5:11] = (200, 100, 50, 255)
    assert np.allclose(spread(rgba)[3:13, 3:13, :3], (200, 100, 50), atol=1)


def test_a_split_without_alpha_is_refused(tiny_data, tmp_path):
    with pytest.raises(ValueError, match=r"wanted 8-bit RGBA \(render --view object\)"):
        Views(tiny_data / "train")
    assert not list((tiny_data / "train").glob("packed*"))  # nothing half written


# composed crops


def test_a_sample_depends_on_its_number_and_the_seed_alone(data, tmp_path):
    one, again = dataset(data, tmp_path), dataset(data, tmp_path)
    assert all(torch.equal(one[7][name], again[7][name]) for name in one[7])
    assert not torch.equal(one[7]["image"], one[8]["image"])


def test_points_lie_on_the_surface_and_project_where_they_are_seen(data, tmp_path):
    crops = dataset(data, tmp_path, search_share=0.0)
    for index in range(6):
        layer = crops._about(index, np.random.default_rng(index))[0][0]
        labels = (depth_at(layer, crops.grid)[0] > 0).astype(np.uint8)
        model = crops.models[crops.class_of[layer.view.object_id]]
        points = surface_points(layer, model, crops.grid, labels > 0) * model.diameter / 2 + model.box_center
        edge = EDGES[layer.view.object_id]
        off = np.abs(np.abs(points).max(1) - edge / 2) / edge  # depth is that of the nearest of few pixels
        assert off.max() < 0.06 and np.median(off) < 0.01
        pixels = transform(layer.view.T_camera_object, points) @ layer.view.K.T
        pixels = np.c_[pixels[:, :2] / pixels[:, 2:], np.ones(len(points))] @ layer.matrix.T
        assert np.allclose(pixels, crops.grid[labels > 0][:, :2], atol=1e-6)


def test_a_look_is_cut_about_the_box_as_the_node_cuts_it(data, tmp_path):
    crops = dataset(data, tmp_path, search_share=0.0, scale_jitter=0.0, shift_jitter=0.0, roll_deg=0.0)
    model = crops.models[0]
    view = crops._view(model.id, np.random.default_rng(0))
    layer = crops._pasted(view, 1.0, np.full(2, (64 - 1) / 2), np.random.default_rng(0))
    corners = transform(view.T_camera_object, model.corners()) @ view.K.T
    corners = np.c_[corners[:, :2] / corners[:, 2:], np.ones(8)] @ layer.matrix.T
    assert np.ptp(corners, axis=0).max() == pytest.approx(64 / 1.25)
    assert (corners.max(0) + corners.min(0)) / 2 == pytest.approx([31.5, 31.5])


def test_every_look_shows_its_object_and_searches_show_any_number(data, tmp_path):
    looks, searches = dataset(data, tmp_path, search_share=0.0), dataset(data, tmp_path, search_share=1.0)
    shown = [set(looks[i]["class_index"].tolist()) for i in range(20)]
    assert sum(i % 2 in classes for i, classes in enumerate(shown)) >= 18  # pieces hide one now and then
    counts = {len(searches[i]["class_index"]) for i in range(40)}
    assert 0 in counts and max(counts) >= 3


def test_what_is_hidden_too_far_is_not_asked_for(data, tmp_path):
    crops = dataset(data, tmp_path, min_visibility=0.5)
    layers = crops._about(0, np.random.default_rng(3))[0][:1]
    labels = (depth_at(layers[0], crops.grid)[0] > 0).astype(np.uint8)
    whole = int(labels.sum())

    def targets(seen):
        crop = Composed(64, labels, crops.grid, layers, [seen], 0, 0.5)
        return crops.targets.of_composed(crop, np.random.default_rng(0))

    assert (targets(whole)["instance_map"] == 0).sum() == whole
    hidden = targets(3 * whole)
    assert (hidden["instance_map"] == UNUSED).sum() == whole and len(hidden["class_index"]) == 0
    assert set(np.unique(hidden["instance_map"])) == {BACKGROUND, UNUSED}


def test_tied_maps_lead_to_equal_pictures():
    half_turn = np.diag([-1.0, -1, 1, 1])
    model = ObjectModel(
        1,
        "bar",
        0.1,
        np.array([0.01, 0, 0.02]),
        np.full(3, 0.05),
        box_corners(0, 0.05 * np.ones(3)),
        expand_symmetries([half_turn]),
    )
    pose = make_pose(from_rotation_vector((0, 0, np.pi / 2)), (0.0, 0.0, 0.5))  # on the boundary
    layer = Pasted(View(None, None, np.eye(3), pose, 1), np.eye(3)[:2], 0.0, 10.0)
    maps = tied_maps(layer, model)
    assert len(maps) == 2
    point = np.array([0.02, -0.01, 0.03])
    radii = (point - model.box_center) / 0.05
    found = {tuple(np.round((m[:, :3] @ radii + m[:, 3]) * 0.05 + model.box_center, 6)) for m in maps}
    assert found == {tuple(point), tuple(half_turn[:3, :3] @ point)}


# losses


def small_batch(data, tmp_path, count=4):
    crops = dataset(data, tmp_path, search_share=0.0)
    return crops.collate([crops[i] for i in range(count)])


def perfect(batch, classes=2):
    instance = batch["instance_map"]
    mask = torch.full((len(instance), classes, *instance.shape[1:]), -30.0)
    for place in (instance >= 0).nonzero():
        b, v, u = place.tolist()
        mask[b, batch["class_index"][instance[b, v, u]], v, u] = 30.0
    points = batch["points"].unsqueeze(1).repeat(1, classes, 1, 1, 1)
    return Surface(mask, points.clone().requires_grad_(), torch.zeros_like(mask))


def test_the_truth_costs_nothing(data, tmp_path):
    batch = small_batch(data, tmp_path)
    terms = surface_losses(perfect(batch), batch)
    assert terms["mask"] < 1e-6 and terms["point"] < 1e-6


def test_the_likelihood_is_least_where_the_scale_is_the_mean_error(data, tmp_path):
    batch = small_batch(data, tmp_path)
    truth = perfect(batch)
    off = Surface(truth.mask, truth.points.detach() + 0.2, truth.log_scale)  # by 0.2 in each coordinate
    values = [
        float(
            surface_losses(off._replace(log_scale=torch.full_like(off.log_scale, np.log(s))), batch)[
                "likelihood"
            ]
        )
        for s in (0.1, 0.2, 0.4)
    ]
    assert np.argmin(values) == 1


def test_an_instance_aims_at_one_representative_as_a_whole():
    maps = torch.stack([torch.eye(4)[:3], torch.diag(torch.tensor([-1.0, -1, 1, 1]))[:3]])[None]
    batch = {"ties": maps, "tied": torch.tensor([[True, True]])}
    truth = torch.tensor([[1.0, 0, 0], [0.5, 0, 0]])
    found = torch.tensor([[-1.0, 0, 0], [0.1, 0, 0]])  # together nearer to the second
    distance = nearest_distance(found, truth, torch.zeros(2, dtype=torch.long), batch)
    assert torch.allclose(distance, torch.tensor([0.0, 0.6]))
    alone = nearest_distance(
        found, truth, torch.zeros(2, dtype=torch.long), batch | {"tied": torch.tensor([[True, False]])}
    )
    assert torch.allclose(alone, torch.tensor([2.0, 0.4]))


def test_a_batch_without_an_object_has_finite_gradients(data, tmp_path):
    crops = dataset(data, tmp_path, search_share=1.0)
    empty = [crops[i] for i in range(60) if not len(crops[i]["class_index"])][:2]
    batch = collate_surface(empty)
    surface = perfect(batch)
    sum(surface_losses(surface, batch).values()).backward()
    assert torch.isfinite(surface.points.grad).all() and (surface.points.grad == 0).all()


# a run


def test_a_stopped_run_ends_as_one_that_went_through(data, tmp_path, monkeypatch):
    train(settings(data, tmp_path / "whole"))
    events = EventAccumulator(str(tmp_path / "whole" / "surface")).Reload()
    assert [event.step for event in events.Scalars("val/point")] == [6]  # of views_val
    presses = iter([False, True])

    @contextlib.contextmanager
    def pressed():
        yield lambda: next(presses)

    with monkeypatch.context() as patched:
        patched.setattr("training.fit.train.ctrl_c_between_steps", pressed)
        with pytest.raises(Stopped):
            train(settings(data, tmp_path / "parts"))
    train(settings(data, tmp_path / "parts"))
    whole, parts = (checkpoint.load(tmp_path / name / "surface" / "last.ckpt") for name in ("whole", "parts"))
    for part in ("network", "average"):
        assert all(torch.equal(v, parts[part][k]) for k, v in whole[part].items())
    assert load_config(tmp_path / "parts" / "surface").network == settings(data, tmp_path).network


def test_what_is_exported_is_the_average_and_runs(data, tmp_path):
    config = settings(data, tmp_path)
    train(config)
    state = checkpoint.load(config.folder / "last.ckpt")
    deployed, _ = trained_network(config)
    assert torch.equal(deployed.network.last.weight, state["average"]["last.weight"])
    assert not torch.equal(deployed.network.last.weight, state["network"]["last.weight"])
    export_run(config.folder, tmp_path / "bundle", {1: "small"}, 128, 0)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.family == "surface" and bundle.manifest.input.search_size == 128
    estimator = make_estimator(bundle, load_network(bundle))
    camera = Camera(np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]]), np.zeros(0), "plumb_bob", 160, 120)
    assert "locate_network" in estimator.estimate(np.zeros((120, 160, 3), np.uint8), camera).stages_ms


def small_run(data, runs, name="one", **changes):
    """A trained run of object 5 alone, on an encoder without its last two stages."""
    network = SurfaceConfig("lite0", width=16, classes=1, pretrained=False, coarsest=16)
    config = settings(data, runs, **{"name": name, "objects": (5,), "network": network, "steps": 2} | changes)
    train(config)
    return config


def test_networks_of_single_objects_look_and_the_joint_one_searches(data, tmp_path):
    joint, one = settings(data, tmp_path), small_run(data, tmp_path)
    train(joint)
    export_run(joint.folder, tmp_path / "bundle", {}, 128, 0, object_runs=(one.folder,))
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.network.object_files == {"5": "object_000005.onnx"}
    assert "the crops they learnt from: one 4" in bundle.manifest.training.data
    network = load_network(bundle)  # its golden sample holds what both say
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    with torch.no_grad():
        expected = trained_network(one)[0](torch.from_numpy(image))
    assert network(image)["mask"].shape == (1, 2, 16, 16)
    for found, wanted in zip(network(image, 5).values(), expected):
        assert np.allclose(found, wanted, atol=0.02)


def test_a_run_that_is_not_of_one_of_the_objects_is_refused(data, tmp_path):
    joint = settings(data, tmp_path, objects=(5,), network=SurfaceConfig("darknet-tiny-h", width=16))
    train(joint)
    wanted = r"wanted a surface run of one of the objects \[5\] that no other run has, .*surface, objects"
    other = small_run(data, tmp_path, "other", objects=(1,))
    with pytest.raises(ValueError, match=wanted + r" \[1\]"):
        export_run(joint.folder, tmp_path / "bundle", {}, 128, 0, object_runs=(other.folder,))
    one = small_run(data, tmp_path)
    with pytest.raises(ValueError, match=wanted + r" \[5\]"):
        export_run(joint.folder, tmp_path / "bundle", {}, 128, 0, object_runs=(one.folder, one.folder))
    assert not (tmp_path / "bundle").exists()


def test_a_smaller_encoder_starts_from_the_trunk_of_a_larger_one(data, tmp_path):
    large = small_run(data, tmp_path, "large", network=SurfaceConfig("lite0", 16, 1, pretrained=False))
    start = {"init": large.folder / "last.ckpt", "init_part": "trunk", "lr": 1e-9}
    small = small_run(data, tmp_path, "small", **start)
    of_large, of_small = (trained_network(run)[0].network.state_dict() for run in (large, small))
    assert "backbone.stages.6.0.project.0.weight" in of_large.keys() - of_small.keys()
    for name in ("backbone.stages.4.0.project.0.weight", "decoder.sides.16.weight", "body.0.0.weight"):
        assert torch.allclose(of_large[name], of_small[name], atol=1e-6)
