"""Networks against the published counts, and the order of their cells."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.core.cells import cell_grid, cells_per_level  # noqa: E402
from training.export import cost  # noqa: E402
from training.models.network import (  # noqa: E402
    KeypointNetwork,
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
    found = cost(KeypointNetwork(config).eval(), 256)
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
