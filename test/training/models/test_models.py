# SPDX-License-Identifier: Apache-2.0
"""Networks against the published counts, and the order of their cells."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.core.cells import cell_grid, cells_per_level  # noqa: E402
from training.export.network import cost  # noqa: E402
from training.families import deployed, make_network  # noqa: E402
from training.models.dense import dense_tiny_h  # noqa: E402
from training.models.keypoint import (  # noqa: E402
    KeypointNetwork,
    NetworkConfig,
    darknet53,
    darknet_tiny,
    darknet_tiny_h,
    darknet_tiny_h_slim,
)


@pytest.mark.parametrize(
    "config, parameters, gflop",
    [
        (darknet53(), 50.5e6, 33.4),
        (darknet_tiny(), 7.8e6, 15.8),
        (darknet_tiny_h(), 1.97e6, 4.0),
        (darknet_tiny_h_slim(), 0.618e6, 1.058),
    ],
)
def test_parameters_within_3_and_flops_within_5_percent_of_the_published(config, parameters, gflop):
    found = cost(KeypointNetwork(config).eval(), (256, 256))
    assert found[0] == pytest.approx(parameters, rel=0.03)
    assert found[1] == pytest.approx(gflop, rel=0.05)


def test_cells_come_in_grid_order():
    """Moving the input by a stride moves the finest level's logits by one cell: rows run fastest along u."""
    torch.manual_seed(0)
    network = KeypointNetwork(darknet_tiny_h_slim()).eval()
    image = torch.randn(1, 3, 128, 256)
    with torch.no_grad():
        logits, offsets = network(image)
    centers, _ = cell_grid(128, 256, network.config.strides)
    assert logits.shape == (1, len(centers), 1) and offsets.shape == (1, len(centers), 1, 8, 2)
    assert tuple(centers[1] - centers[0]) == (8, 0) and tuple(centers[32] - centers[0]) == (0, 8)
    disturbed = image.clone()
    disturbed[:, :, 60:68, 200:208] += 20
    with torch.no_grad():
        change = (network(disturbed)[0] - logits)[0, : 16 * 32, 0].abs()
    assert np.linalg.norm(centers[int(change.argmax())] - (203.5, 63.5)) < 40


@pytest.mark.parametrize(
    "box, expected",
    [
        (40, [6, 4, 0, 0, 0]),
        (80, [1, 5, 4, 0, 0]),
        (120, [0, 2, 6, 2, 0]),
        (171, [0, 1, 5, 4, 0]),
        (256, [0, 0, 2, 6, 2]),
    ],
)
def test_cells_per_level_as_published(box, expected):
    assert cells_per_level(box, [32, 64, 128, 256, 512]).tolist() == expected


def test_input_that_a_stride_does_not_divide_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"250x256.*stride 64"):
        cell_grid(256, 250, (64,))


KEYPOINT_SHAPES = [
    {"backbone": backbone, "levels": levels}
    for backbone in ("darknet53", "darknet-tiny-h")
    for levels in (1, 2, 3, 4, 5)
]
KEYPOINT_SHAPES += [{"scale": True}, *({"branches": 2, "aggregation": kind} for kind in ("one", "fau-slim"))]


@pytest.mark.parametrize("shape", KEYPOINT_SHAPES, ids=str)
def test_every_parameter_that_learns_has_a_gradient(shape):
    torch.manual_seed(0)
    network = make_network(NetworkConfig(width=8, depth=1, groups=4, **shape))
    side = 2 * network.config.input_stride
    outputs = network(torch.randn(1, 3, side, side), with_features=True)
    count = len(cell_grid(side, side, network.config.strides)[0])
    assert outputs[0].shape[1] == count and len(outputs[2]) == network.config.levels
    said = [*outputs[:2], *outputs[3:]]  # what the losses look at
    said = [part for each in said if each is not None for part in tensors(each)]
    sum(part.float().square().sum() for part in said).backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def tensors(of):
    """The tensors in nested lists and tuples."""
    return [of] if isinstance(of, torch.Tensor) else [part for each in of for part in tensors(each)]


BRANCHES = NetworkConfig(width=16, depth=1, groups=4, classes=2, branches=3, aggregation="fau-slim")


def voting(config: NetworkConfig) -> tuple[KeypointNetwork, torch.Tensor]:
    """A network in eval mode whose votes are not a fresh one's near-zeros, and images for it."""
    torch.manual_seed(0)
    network = make_network(config).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(("score.weight", "vote.weight")):
            torch.nn.init.normal_(parameter)
    return network, torch.randn(2, 3, 64, 128)


def test_one_branch_has_the_weights_and_votes_that_it_always_had():
    network, images = voting(NetworkConfig(width=16, depth=1, groups=4))
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "pyramid", "head"}
    votes = network(images, with_features=True)
    assert type(votes) is tuple and len(votes) == 3 and len(votes[2]) == 4


@pytest.mark.parametrize("aggregation", ["none", "mean", "one", "fau-slim"])
def test_of_several_branches_the_first_is_deployed_bit_for_bit(aggregation):
    network, images = voting(dataclasses.replace(BRANCHES, aggregation=aggregation))
    alone = deployed(network)
    assert alone.config == BRANCHES.plain
    assert {n: v.shape for n, v in alone.state_dict().items()} == {
        n: v.shape for n, v in KeypointNetwork(BRANCHES.plain).state_dict().items()
    }
    with torch.no_grad():
        votes, expected = network(images, with_features=True), alone(images)
        assert all(map(torch.equal, network(images), expected))
    assert torch.equal(votes.logits, expected[0]) and torch.equal(votes.offsets, expected[1])
    assert len(votes.others) == 2 and (votes.ensemble_logits is None) == (aggregation == "none")


@pytest.mark.parametrize("config", [NetworkConfig(width=16, depth=1, groups=4), dense_tiny_h()])
def test_what_has_no_branches_is_deployed_whole(config):
    network = make_network(config).train()
    alone, state = deployed(network), network.state_dict()
    assert alone.config == config and alone.training and list(alone.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in alone.state_dict().items())


def test_votes_are_weighed_by_keypoint_and_logits_by_the_mean():
    network, images = voting(BRANCHES)
    with torch.no_grad():
        votes = network(images, with_features=True)
    logits, offsets = map(torch.stack, zip((votes.logits, votes.offsets), *votes.others))
    weights = votes.weights
    assert weights.min() >= 0 and weights.shape == (2, 3, 2, 8)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 2, 8))
    expected = torch.einsum("btck,tbncku->bncku", weights, offsets)
    torch.testing.assert_close(votes.ensemble_offsets, expected, atol=1e-3, rtol=1e-4)
    expected = torch.einsum("btc,tbnc->bnc", weights.mean(3), logits)
    torch.testing.assert_close(votes.ensemble_logits, expected, atol=1e-3, rtol=1e-4)


def test_branches_that_cannot_be_are_refused_by_field_found_and_wanted():
    with pytest.raises(ValueError, match=r"NetworkConfig.branches: wanted >= 1, found 0"):
        NetworkConfig(branches=0)
    with pytest.raises(ValueError, match=r"NetworkConfig.scale: wanted 1 branch with it, found 2"):
        NetworkConfig(branches=2, aggregation="mean", scale=True)
    with pytest.raises(ValueError, match=r"NetworkConfig.aggregation: wanted 'none' .* found 'one'"):
        NetworkConfig(aggregation="one")
    with pytest.raises(ValueError, match=r"NetworkConfig.aggregation: wanted one of .*found 'fau'"):
        NetworkConfig(branches=2, aggregation="fau")
