# SPDX-License-Identifier: Apache-2.0
"""Votes to groups, and the stages before the network."""

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import InputSpec
from pose_kd_ros.core.camera import Crop
from pose_kd_ros.core.cells import cell_grid
from pose_kd_ros.core.predictions import LocalPredictions
from pose_kd_ros.core.sensor_messages import to_rgb
from pose_kd_ros.pipeline.decode import decode_cells, group_cells
from pose_kd_ros.pipeline.preprocess import network_input
from pose_kd_ros.pipeline.region import Region, overlap

STRIDES = [8, 16, 32, 64]


def test_votes_are_cell_centres_plus_offsets_above_the_threshold():
    centers, anchors = cell_grid(64, 128, STRIDES)
    scores, offsets = (
        np.zeros((1, len(centers), 2), np.float32),
        np.zeros((1, len(centers), 2, 4, 2), np.float32),
    )
    scores[0, 7, 1], scores[0, 130, 0] = 0.9, 0.6
    offsets[0, 7, 1] = [[1, 2], [3, 4], [5, 6], [7, 8]]
    votes = decode_cells({"scores": scores, "offsets": offsets}, STRIDES, 64, 128, 0.5)
    assert votes.object_index.tolist() == [0, 1] and votes.scores == pytest.approx([0.6, 0.9])
    assert votes.points[1] == pytest.approx(centers[7] + offsets[0, 7, 1])
    assert votes.scale[1] == anchors[7] == 32


def test_a_vote_counts_less_where_its_cell_is_less_sure():
    count = len(cell_grid(64, 128, STRIDES)[0])
    outputs = {"scores": np.full((1, count, 1), 0.1), "offsets": np.zeros((1, count, 1, 8, 2))}
    outputs["scores"][0, :4] = 0.9
    assert decode_cells(outputs, STRIDES, 64, 128, 0.3).weights.tolist() == [0.9] * 4
    scales = np.ones((1, count, 1))
    scales[0, :4, 0] = 0.01, 0.02, 0.06, np.nan
    votes = decode_cells(outputs | {"scales": scales}, STRIDES, 64, 128, 0.3)
    assert np.allclose(votes.weights, [0.9, 0.9, 0.1]) and votes.scores.tolist() == [0.9] * 3
    assert np.allclose(votes.select([0, 2]).error, [0.01, 0.06])


def test_votes_that_are_not_numbers_are_dropped():
    count = len(cell_grid(64, 64, STRIDES)[0])
    offsets = np.zeros((1, count, 1, 4, 2), np.float32)
    offsets[0, 3, 0, 1, 0] = np.nan
    votes = decode_cells({"scores": np.ones((1, count, 1)), "offsets": offsets}, STRIDES, 64, 64, 0.5)
    assert len(votes) == count - 1


def test_another_size_than_the_network_saw_is_refused():
    with pytest.raises(ValueError, match=r"cells for 64x64 px .*, found 10"):
        decode_cells(
            {"scores": np.ones((1, 10, 1)), "offsets": np.zeros((1, 10, 1, 4, 2))}, STRIDES, 64, 64, 0.5
        )


def predictions(boxes, classes, noise=1.0, each=12, seed=0):
    random = np.random.RandomState(seed)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    points = np.concatenate(
        [np.array(b[:2]) + corners * b[2] + random.normal(0, noise, (each, 4, 2)) for b in boxes]
    )
    n = len(points)
    return LocalPredictions(
        points, random.uniform(0.5, 1, n), np.repeat(classes, each), np.zeros((n, 2)), np.full(n, 32.0)
    )


def test_touching_objects_are_two_groups_and_classes_do_not_mix():
    votes = predictions([(0, 0, 60), (60, 0, 60), (60, 0, 60)], [0, 0, 1])
    groups = group_cells(votes)
    assert sorted(sorted(g.tolist()) for g in groups) == [list(range(i, i + 12)) for i in (0, 12, 24)]


def test_no_votes_no_groups():
    assert group_cells(predictions([(0, 0, 60)], [0]).select(np.zeros(0, int))) == []


def test_network_input_is_the_normalised_crop():
    spec = InputSpec(64, 64, 64, 1.5, "rgb", [0.5, 0.4, 0.3], [0.2, 0.25, 0.5])
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8)
    found = network_input(image, Crop(0, 0, 1.0, 64, 64), spec)
    expected = (image / 255.0 - spec.mean) / spec.std
    assert found.dtype == np.float32 and found[0].transpose(1, 2, 0) == pytest.approx(expected, abs=1e-5)
    swapped = network_input(
        image, Crop(0, 0, 1.0, 64, 64), InputSpec(64, 64, 64, 1.5, "bgr", [0.5] * 3, [0.2] * 3)
    )
    assert swapped[0, 0] == pytest.approx((image[..., 2] / 255.0 - 0.5) / 0.2, abs=1e-5)


@pytest.mark.parametrize(
    "encoding, pixel",
    [
        ("rgb8", (10, 20, 30)),
        ("bgr8", (30, 20, 10)),
        ("rgba8", (10, 20, 30, 255)),
        ("bgra8", (30, 20, 10, 255)),
    ],
)
def test_encodings_agree_on_a_colour(encoding, pixel):
    image = np.full((2, 2, len(pixel)), pixel, np.uint8)
    assert to_rgb(image, encoding)[0, 0].tolist() == [10, 20, 30]


def test_an_unknown_encoding_is_named():
    with pytest.raises(ValueError, match="'yuv422'"):
        to_rgb(np.zeros((2, 2, 3), np.uint8), "yuv422")


def test_overlap_and_region_checks():
    assert overlap(np.array([0, 0, 2, 2.0]), np.array([1, 0, 3, 2.0])) == pytest.approx(1 / 3)
    assert overlap(np.array([0, 0, 1, 1.0]), np.array([2, 2, 3, 3.0])) == 0
    with pytest.raises(ValueError, match="x0 < x1"):
        Region(np.array([5, 0, 5, 1.0]))
