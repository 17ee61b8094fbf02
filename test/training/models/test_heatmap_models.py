# SPDX-License-Identifier: Apache-2.0
"""Heatmap networks: the published counts, and what holds between one in branches and what is deployed
of it."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from pose_kd_ros.pipeline.network import OnnxNetwork  # noqa: E402
from training.export.network import Deployed, cost  # noqa: E402
from training.export.onnx import check_parity, write_onnx  # noqa: E402
from training.families import deployed, make_network  # noqa: E402
from training.models.aggregation import make_unit  # noqa: E402
from training.models.encoders import make_encoder  # noqa: E402
from training.models.heatmap import (  # noqa: E402
    HeatmapConfig,
    HeatmapNetwork,
    hourglass,
    light,
    okdhp_hourglass,
)

UNITS = ("mean", "one", "fau", "fau-slim")
UNEQUAL = HeatmapConfig("hourglass", 1, (1, 2, 1), (16, 16, 24), "fau-slim", 2, 3)
SMALL = light("shufflenetv2", 3, "depth", width=16, aggregation="fau-slim", classes=2, keypoints=3)
NARROW = light("darknet-tiny-h", 2, "width", width=16, aggregation="one", keypoints=1)


def made(config: HeatmapConfig, spread: float = 1.0) -> HeatmapNetwork:
    """In eval mode, with maps and batch statistics that are not the fresh network's near-zeros and ones."""
    torch.manual_seed(0)
    network = make_network(config).eval()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if name.endswith("score"):
            torch.nn.init.normal_(module.weight, std=spread)
    return network


def images(config: HeatmapConfig, batch: int = 2) -> torch.Tensor:
    side = config.input_stride
    return torch.randn(batch, 3, side, 2 * side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "stacks, millions, gmac", [(1, 3.59, 5.80), (2, 6.73, 8.99), (4, 13.02, 15.36), (8, 25.60, 28.09)]
)
def test_hourglasses_count_as_published(stacks, millions, gmac):
    """One stack, which the paper does not list, is two less what a stack costs."""
    parameters, gflop = cost(HeatmapNetwork(hourglass(stacks, keypoints=16)).eval(), (256, 256))
    assert parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert gflop / 2 == pytest.approx(gmac, rel=0.005)


@pytest.mark.parametrize(
    "name, parameters", [("resnet18", 11_176_512), ("mobilenetv2", 2_223_872), ("shufflenetv2", 1_253_604)]
)
def test_light_encoders_count_as_published_and_keep_their_strides(name, parameters):
    encoder = make_encoder(name).eval()
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    with torch.no_grad():
        shapes = [tuple(f.shape) for f in encoder(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, w, 64 // s, 96 // s) for w, s in zip(encoder.widths, encoder.strides)]


@pytest.mark.parametrize(
    "config, plain, taught",
    [
        (light("mobilenetv2", 3), (9.568, 4.157), (24.35, 10.92)),
        (light("mobilenetv2", 3, "depth"), (9.568, 4.157), (29.66, 29.94)),
        (light("mobilenetv2", 3, "width"), (9.568, 4.157), (41.13, 23.36)),
        (light("shufflenetv2", 3), (7.549, 3.616), (20.22, 10.11)),
        (light("resnet18", 3), (15.37, 7.709), (23.82, 13.66)),
        (light("darknet-tiny", 3), (2.489, 3.653), (5.662, 8.530)),
        (light("darknet-tiny-h", 3), (1.544, 2.619), (4.183, 7.223)),
        (okdhp_hourglass(2, keypoints=16), (6.730, 17.98), (18.34, 74.13)),
    ],
    ids=lambda value: getattr(value, "backbone", ""),
)
def test_branches_cost_in_training_alone(config, plain, taught):
    """Millions of parameters and GFLOP at 256 x 256, of the deployed branch and of all three."""
    network, size = make_network(config).eval(), (256, 256)
    found = cost(deployed(network), size), cost(network, size, True)
    for (parameters, gflop), expected in zip(found, (plain, taught)):
        assert (parameters / 1e6, gflop) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind, gmac", [("fau", 20.8 * 2**30 / 1e9), ("fau-slim", 0.0685)])
def test_the_slim_unit_costs_a_three_hundredth_of_the_published(kind, gmac):
    unit = make_unit(kind, 256, 3, 1, 16, pool=4).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unit(torch.zeros(1, 256, 64, 64))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.005)


def test_the_papers_networks_deploy_plain_hourglasses():
    for stacks in (2, 4, 8):
        config = okdhp_hourglass(stacks)
        assert config.plain == hourglass(stacks)
        assert (config.shared, config.depths) == (stacks // 2, (stacks // 2,) * 3)
    assert okdhp_hourglass(4, unbalanced=True).depths == (2, 4, 6)
    assert okdhp_hourglass(4, unbalanced=True).plain == hourglass(4)
    assert light("resnet18", 3, "width").plain == light("resnet18") == light("resnet18", 3, "depth").plain


@pytest.mark.parametrize("config", [UNEQUAL, SMALL, NARROW])
def test_the_deployed_network_is_branch_0_bit_for_bit_and_nothing_more(config):
    network = made(config)
    alone, plain = deployed(network), HeatmapNetwork(config.plain)
    given = images(config)
    with torch.no_grad():
        inside, maps = network(given, with_features=True), alone(given)
        assert torch.equal(maps, inside.final[0]) and torch.equal(maps, network(given))
    assert sum(p.numel() for p in alone.parameters()) == sum(p.numel() for p in plain.parameters())
    assert alone.config == config.plain and alone.unit is None and not alone.training


def test_a_crop_of_one_stride_is_exported_with_free_sides_too(tmp_path):
    """The exporter takes a side of one stride for a constant."""
    config = HeatmapConfig("hourglass", 0, (1,), (8,), keypoints=4)
    torch.manual_seed(0)
    network = Deployed(make_network(config)).eval()
    write_onnx(network, tmp_path / "network.onnx", 64, config.input_stride, ["heatmaps"])
    engine = OnnxNetwork(tmp_path / "network.onnx")
    for height, width in ((64, 64), (128, 192)):
        check_parity(network, engine, height, width)


@pytest.mark.parametrize("config", [UNEQUAL, SMALL, NARROW])
def test_shapes_of_all_that_is_supervised(config):
    given = images(config, batch=1)
    with torch.no_grad():
        maps = made(config)(given, with_features=True)
    one = (1, config.classes, config.keypoints, given.shape[2] // 4, given.shape[3] // 4)
    assert maps.final.shape == (len(config.depths), *one) and maps.ensemble.shape == one
    assert maps.weights.shape == (1, len(config.depths), config.classes, config.keypoints)
    inner = config.shared + sum(config.depths) - len(config.depths) if config.backbone == "hourglass" else 0
    assert [m.shape for m in maps.intermediate] == [one] * inner


def test_one_branch_without_aggregation_has_no_ensemble():
    config = NARROW.plain
    maps = made(config)(images(config), with_features=True)
    assert maps.ensemble is None and maps.weights is None and len(maps.final) == 1


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("config", [UNEQUAL, SMALL])
def test_weights_are_a_distribution_over_the_branches_that_differs_where_it_should(config, kind):
    config = dataclasses.replace(config, aggregation=kind)
    with torch.no_grad():
        weights = made(config)(images(config), with_features=True).weights
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    by_keypoint, by_sample = weights.flatten(2).std(2).max(), weights.std(0).max()
    assert (by_keypoint > 0) == kind.startswith("fau") and (by_sample > 0) == (kind != "mean")


@pytest.mark.parametrize("config", [UNEQUAL, SMALL])
def test_the_ensemble_is_the_final_maps_of_all_branches_by_their_weights(config):
    network = made(config)
    given = images(config)
    with torch.no_grad():
        before = network(given, with_features=True)
        expected = torch.einsum("btck,tbckhw->bckhw", before.weights, before.final)
        torch.testing.assert_close(before.ensemble, expected, atol=1e-4, rtol=1e-4)
        for t, branch in enumerate(network.branches):
            last = branch.stacks[-1] if config.backbone == "hourglass" else branch
            last.score.bias += 1
            change = network(given, with_features=True).ensemble - before.ensemble
            last.score.bias -= 1
            weight = before.weights[:, t, ..., None, None].expand_as(change)
            torch.testing.assert_close(change, weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", UNITS)
def test_identical_branches_make_an_ensemble_equal_to_each(kind):
    config = dataclasses.replace(SMALL, depths=(1, 1, 1), aggregation=kind)
    network = made(config)
    for branch in network.branches:
        branch.load_state_dict(network.branches[0].state_dict())
    with torch.no_grad():
        maps = network(images(config), with_features=True)
    torch.testing.assert_close(maps.ensemble, maps.final[1])


def test_permuted_branches_and_heads_permute_maps_and_weights_and_leave_the_ensemble():
    config, order = dataclasses.replace(SMALL, depths=(1, 1, 1)), [2, 0, 1]
    network = made(config)
    given = images(config)
    with torch.no_grad():
        before = network(given, with_features=True)
        for modules in (network.branches, network.unit.heads):
            states = [{n: v.clone() for n, v in m.state_dict().items()} for m in modules]
            for module, t in zip(modules, order):
                module.load_state_dict(states[t])
        after = network(given, with_features=True)
    assert torch.equal(after.final, before.final[order])
    torch.testing.assert_close(after.weights, before.weights[:, order])
    torch.testing.assert_close(after.ensemble, before.ensemble)


@pytest.mark.parametrize("kind", ("one", "fau", "fau-slim"))
def test_the_ensembles_error_reaches_the_unit(kind):
    network = made(dataclasses.replace(SMALL, aggregation=kind)).train()
    maps = network(images(SMALL), with_features=True)
    maps.ensemble.square().mean().backward()
    gradients = {n: p.grad for n, p in network.unit.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert any(g.abs().max() > 0 for g in gradients.values())


def test_training_starts_from_maps_near_0():
    for config in (UNEQUAL, SMALL):
        with torch.no_grad():
            maps = make_network(config).train()(images(config), with_features=True)
        assert max(m.abs().max() for m in (*maps.final, *maps.intermediate)) < 0.1


@pytest.mark.parametrize(
    "config, size, stride",
    [(UNEQUAL, (96, 64), 64), (SMALL, (64, 80), 32), (NARROW, (24, 32), 16)],
)
def test_sides_that_the_stride_does_not_divide_are_refused_with_both_numbers(config, size, stride):
    height, width = size
    with pytest.raises(ValueError, match=f"{stride} divides, found {width}x{height}"):
        made(config)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": "vgg"}, "HeatmapConfig.backbone: wanted .*mobilenetv2.*found 'vgg'"),
        ({"aggregation": "max"}, "HeatmapConfig.aggregation: wanted .*fau-slim, found 'max'"),
        ({"keypoints": 0}, "HeatmapConfig.keypoints: wanted >= 1, found 0"),
        ({"shared": -1}, "HeatmapConfig.shared: wanted >= 0, found -1"),
        ({"depths": (1, 1)}, "HeatmapConfig.widths: .*found 1 for 2"),
        ({"depths": (), "widths": ()}, "HeatmapConfig.widths: .*at least one, found 0"),
        ({"depths": (0,)}, r"HeatmapConfig.depths: wanted >= 1 each, found \(0,\)"),
        ({"widths": (15,)}, r"HeatmapConfig.widths: wanted even numbers > 0, found \(15,\)"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_field_found_and_wanted(changes, message):
    with pytest.raises(ValueError, match=message):
        HeatmapConfig(**changes)
