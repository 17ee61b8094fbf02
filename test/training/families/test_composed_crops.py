# SPDX-License-Identifier: Apache-2.0
"""Keypoint and heatmap networks learn from crops composed of object views, too."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moderngl")

from pose_kd_ros.core.camera import project_pinhole  # noqa: E402
from pose_kd_ros.core.cells import cell_grid  # noqa: E402
from pose_kd_ros.core.pose import check_pose, transform  # noqa: E402
from training.config import RunConfig  # noqa: E402
from training.data.augment import AugmentConfig  # noqa: E402
from training.data.compose import ComposeConfig, ComposedDataset  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.data.heatmap_targets import PointTargets  # noqa: E402
from training.data.targets import VoteTargets  # noqa: E402
from training.data.views import Views  # noqa: E402
from training.fit.train import make_dataset, train  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.heatmap import HeatmapConfig  # noqa: E402
from training.models.keypoint import darknet_tiny_h_slim  # noqa: E402
from training.render import shapes  # noqa: E402
from training.render.config import RenderConfig, ViewConfig  # noqa: E402
from training.render.dataset import render_dataset  # noqa: E402
from training.render.mesh_files import Target, write_models  # noqa: E402

CROPS = CropConfig(size=64, margin=1.25, roll_deg=30.0, search_share=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Views of two cubes without symmetries, of 64 px."""
    out = tmp_path_factory.mktemp("views")
    write_models(out / "meshes", [Target(i, shapes.cube(edge), {}) for i, edge in ((1, 0.05), (5, 0.09))])
    views = ViewConfig(view_px=64)
    config = RenderConfig(mesh=out / "meshes", view="object", views=views, images_per_scene=8)
    render_dataset(config, out, "views", 16, seed=1)
    render_dataset(config, out, "views_val", 8, seed=2)
    return out


@pytest.fixture(scope="module")
def objects(data):
    return RunConfig("any", data=data, split="views").load_objects()


def run_of(data, runs, network, **changes):
    common = {
        "name": "composed",
        "data": data,
        "split": "views",
        "val_split": "",
        "runs": runs,
        "network": network,
        "crops": CROPS,
        "compose": ComposeConfig(views=True),
        "augment": AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0),
        "steps": 4,
        "batch_size": 2,
        "workers": 0,
        "precision": "32-true",
        "accelerator": "cpu",
    }
    return RunConfig(**common | changes)


def composed(data, objects, targets):
    return ComposedDataset(Views(data / "views"), objects, targets, CROPS, ComposeConfig(), seed=3)


class Kept:
    """Targets that keep what was composed."""

    stride, collate = 1, None

    def of_composed(self, crop, rng):
        self.crop = crop
        return {}


def test_a_pasted_view_is_what_a_turned_and_zoomed_camera_sees(data, objects):
    kept, models = Kept(), {model.id: model for model in objects}
    dataset, layers = composed(data, objects, kept), []
    for index in range(12):
        dataset[index]
        layers += kept.crop.layers
    assert len(layers) > 12
    for layer in layers:
        corners, view = models[layer.view.object_id].corners(), layer.view
        in_view = project_pinhole(view.K, transform(view.T_camera_object, corners))
        moved = np.c_[in_view, np.ones(8)] @ layer.matrix.T
        check_pose(layer.pose, "pasted")
        np.testing.assert_allclose(project_pinhole(layer.K, transform(layer.pose, corners)), moved, atol=1e-6)
        scale = np.sqrt(np.linalg.det(layer.matrix[:, :2]))
        assert layer.box_size == pytest.approx(scale * np.ptp(in_view, axis=0).max())


def test_cells_vote_where_their_object_is_seen(data, objects):
    dataset = composed(data, objects, VoteTargets(objects, (8, 16)))
    batch = dataset.collate([dataset[i] for i in range(12)])
    assert len(batch["vote_cell"]) > 50
    points = torch.einsum("iab,irkb->irka", torch.linalg.inv(batch["K_inverse"]), batch["keypoints"])
    pixels = (points[..., :2] / points[..., 2:])[:, 0]
    low, high = pixels.min(1).values - 1, pixels.max(1).values + 1
    centers, of = torch.tensor(cell_grid(64, 64, (8, 16))[0])[batch["vote_cell"]], batch["vote_instance"]
    assert ((centers >= low[of]) & (centers <= high[of])).all()
    classes = batch["cell_class"][batch["vote_image"], batch["vote_cell"]]
    assert (classes == 1 + batch["class_index"][of]).all()


def test_keypoints_of_the_object_that_a_crop_is_about(data, objects):
    dataset = composed(data, objects, PointTargets(objects))
    samples = [dataset[i] for i in range(40)]
    shown = [sample for sample in samples if sample["visible"].any()]
    assert 0.5 < len(shown) / len(samples) < 0.9  # the others stand for the search, or are hidden
    for sample in shown:
        inside = sample["points"][sample["visible"] > 0]
        assert ((inside > -0.5) & (inside < 63.5)).all()
        assert not sample["absent"][sample["class_index"]]


@pytest.mark.parametrize(
    "network",
    [darknet_tiny_h_slim(classes=2), HeatmapConfig(classes=2, keypoints=8, widths=(16,), skips=True)],
    ids=["keypoint", "heatmap"],
)
def test_a_run_on_composed_crops(data, tmp_path, network):
    config = run_of(data, tmp_path, network)
    assert train(config).exists()
    assert make_dataset(config, config.val_split, True).source.name == "views_val"


def test_codes_are_not_made_for_composed_crops(data, tmp_path):
    config = run_of(data, tmp_path, DenseConfig(classes=2), crops=dataclasses.replace(CROPS, roll_deg=0.0))
    with pytest.raises(ValueError, match=r"compose.views: wanted no object views for the dense family"):
        make_dataset(config, "views")
