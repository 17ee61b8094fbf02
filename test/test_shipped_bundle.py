# SPDX-License-Identifier: Apache-2.0
"""The bundle that ships: whole, replayable, and what the README says it is."""

from pathlib import Path

import numpy as np
import pytest

from pose_kd_ros.bundle.store import golden_input, open_bundle
from pose_kd_ros.pipeline.network import OnnxNetwork, load_network

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"


@pytest.fixture(scope="module")
def cube():
    return open_bundle(BUNDLES / "cube")


def test_the_cube_replays_its_golden_sample(cube):
    load_network(cube, threads=1)


def test_the_cube_is_84_mm_with_24_symmetries_and_a_small_network(cube):
    model = cube.objects[0]
    assert model.name == "cube" and model.box_size.tolist() == [0.084] * 3 and len(model.symmetries) == 24
    assert cube.manifest.network.parameters < 3_500_000
    assert sum(p.stat().st_size for p in cube.folder.iterdir()) < 7_000_000
    assert np.ptp(cube.mesh(1).vertices, axis=0).tolist() == pytest.approx([0.084] * 3)


def test_its_manifest_says_what_it_was_trained_on_and_measured(cube):
    training = cube.manifest.training
    assert training.steps > 0 and "render" in training.data
    assert {"mssd", "mspd", "found"} <= set(training.metrics)


@pytest.mark.parametrize("name", ["cube", "lmo", "ycb"])
def test_threads_change_no_bit(name):
    """An evaluation, which is the same to the bit each time, runs the network on all cores."""
    bundle = open_bundle(BUNDLES / name)
    spec = bundle.manifest.input
    networks = [OnnxNetwork(bundle.network_path, threads) for threads in (1, 2, 3)]
    for height, width in ((spec.size, spec.width), (3 * spec.stride, 4 * spec.stride)):
        image = golden_input(1, height, width)
        one, *more = (network(image) for network in networks)
        for other in more:
            assert all(np.array_equal(one[output], other[output]) for output in one)


def test_occluded_linemods_eight_objects_are_found_by_one_network_and_have_one_each():
    bundle = open_bundle(BUNDLES / "lmo")
    load_network(bundle, threads=1)
    assert bundle.manifest.family == "surface" and bundle.manifest.locator is None
    assert [model.id for model in bundle.objects] == [1, 5, 6, 8, 9, 10, 11, 12]
    assert [len(model.symmetries) for model in bundle.objects] == [1, 1, 1, 1, 1, 2, 2, 1]
    looks = bundle.manifest.network.object_files
    assert {int(object_id) for object_id in looks} == {model.id for model in bundle.objects}
    # No mesh, no picture.
    assert files_of(bundle) == {"manifest.json", "network.onnx", "golden.npz", *looks.values()}
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 22_000_000
    assert "photographs" in bundle.manifest.training.data
    assert bundle.manifest.training.metrics["found"] > 0.25  # on held-out renders


def files_of(bundle):
    return {path.name for path in bundle.folder.iterdir()}


def test_things_that_robot_labs_have_on_the_shelf():
    bundle = open_bundle(BUNDLES / "ycb")
    load_network(bundle, threads=1)
    names = {model.id: model.name for model in bundle.objects}
    assert names == {
        3: "cracker_box",
        4: "sugar_box",
        5: "tomato_soup_can",
        6: "mustard_bottle",
        10: "potted_meat_can",
        35: "power_drill",
    }
    looks = bundle.manifest.network.object_files
    assert {int(object_id) for object_id in looks} == set(names)
    assert files_of(bundle) == {"manifest.json", "network.onnx", "golden.npz", *looks.values()}
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 18_000_000
    assert "CC BY 4.0" in bundle.manifest.training.data
    assert bundle.manifest.training.metrics["found"] > 0.25  # on held-out renders
