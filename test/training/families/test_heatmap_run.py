# SPDX-License-Identifier: Apache-2.0
"""The heatmap family from a data set to a bundle: crops, branches that teach each other, export, robot."""

import contextlib
import dataclasses

import cv2
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from pose_kd_ros.core.camera import project_pinhole  # noqa: E402
from pose_kd_ros.core.object_model import ObjectModel, box_corners, rotations_about  # noqa: E402
from pose_kd_ros.core.pose import transform  # noqa: E402
from pose_kd_ros.datasets.bop import BopDataset  # noqa: E402
from pose_kd_ros.evaluation.looks import run  # noqa: E402
from pose_kd_ros.pipeline.families import make_estimator  # noqa: E402
from pose_kd_ros.pipeline.network import load_network  # noqa: E402
from training.config import RunConfig, load_config  # noqa: E402
from training.data.augment import AugmentConfig, augmented, make_augmentation  # noqa: E402
from training.data.crops import CropConfig, CropDataset  # noqa: E402
from training.data.heatmap_targets import NOWHERE, PointTargets, make_points  # noqa: E402
from training.data.objects import load_objects  # noqa: E402
from training.data.tiles import read_tile  # noqa: E402
from training.export.network import cost, trained_network  # noqa: E402
from training.export.run import export_run  # noqa: E402
from training.families import FAMILIES, Supervision, make_network  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.step import losses, prepare  # noqa: E402
from training.fit.train import Stopped, make_dataset, train  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.losses.heatmap import empty_loss  # noqa: E402
from training.losses.online import OnlineConfig  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.heatmap import HeatmapConfig  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

PRESENT = np.zeros(1, bool)
PLAIN = HeatmapConfig("darknet-tiny-h", widths=(16,))
BRANCHES = dataclasses.replace(PLAIN, depths=(1, 1, 2), widths=(16,) * 3, aggregation="fau-slim")
ONLINE = OnlineConfig("ensemble")


def settings(data, runs, **changes):
    return RunConfig(
        **{
            "name": "heatmap",
            "data": data,
            "runs": runs,
            "keypoints": "corners+centre",
            "network": BRANCHES,
            "online": ONLINE,
            "crops": CropConfig(size=64, search_share=0.1),
            "steps": 6,
            "batch_size": 2,
            "workers": 0,
            "precision": "32-true",
            "accelerator": "cpu",
            "checkpoint_every": 2,
            "log_every": 2,
            "val_every": 6,
        }
        | changes
    )


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    config = settings(tiny_data, tmp_path_factory.mktemp("runs"))
    train(config)
    return config


@pytest.fixture(scope="module")
def batch(tiny_data, tmp_path_factory):
    dataset = make_dataset(settings(tiny_data, tmp_path_factory.mktemp("none")), "train")
    return dataset.collate([dataset[i] for i in range(3)])


def outputs_of(network, batch):
    return network(prepare(batch), with_features=True)


# crops


def test_the_keypoints_lie_where_the_object_is(tiny_data, tmp_path):
    dataset = make_dataset(settings(tiny_data, tmp_path), "train")
    for index in range(8):
        sample = dataset[index]
        points, picture = sample["points"].numpy(), sample["image"].numpy().mean(0)
        if not sample["visible"].all():
            continue
        hull = cv2.convexHull(points[:8].round().astype(np.int32))
        inside = cv2.fillConvexPoly(np.zeros(picture.shape, np.uint8), hull, 1) > 0
        assert picture[inside].mean() > picture[~inside].mean() + 80  # the cube is bright
        assert cv2.pointPolygonTest(hull, points[8].tolist(), False) > 0
        return
    raise AssertionError("no crop shows the whole object")


def test_keypoints_outside_the_crop_are_not_asked_for():
    (model,) = [square_object()]
    pose = np.eye(4)
    pose[2, 3] = 1.0
    K = np.array([[1000.0, 0, 0], [0, 1000, 0], [0, 0, 1]])  # the object's centre in the crop's corner
    made = make_points(0, model, pose, K, (64, 64), PRESENT)
    inside = (made["points"] >= 0).all(1)
    assert 0 < inside.sum() < 8 and torch.equal(made["visible"], inside.float())
    assert (made["points"][~inside] == NOWHERE).all()


def square_object():
    turns = rotations_about((0, 0, 1), steps=4)
    corners = box_corners((0, 0, 0), (0.1, 0.1, 0.05))
    return ObjectModel(1, "tile", 0.15, (0, 0, 0), (0.1, 0.1, 0.05), corners, turns)


def test_symmetric_objects_have_one_truth():
    model, pose = square_object(), np.eye(4)
    pose[:3, :3], pose[2, 3] = cv2.Rodrigues(np.array([2.2, 0.3, 0.1]))[0], 0.8
    K = np.array([[300.0, 0, 32], [0, 300, 32], [0, 0, 1]])
    how = K, (64, 64), PRESENT
    first, *others = (make_points(0, model, pose @ s, *how)["points"] for s in model.symmetries)
    for other in others:
        torch.testing.assert_close(other, first)


def test_no_crop_of_an_object_is_a_mirror_image(tiny_data, tmp_path):
    """Neither its keypoints nor, in augmentation, its pixels: a mirror turns an object into another one."""
    config = settings(tiny_data, tmp_path, crops=CropConfig(size=64, search_share=0.0, roll_deg=15.0))
    dataset, (model,) = make_dataset(config, "train"), config.load_objects()
    (instance,) = BopDataset(tiny_data / "train").images[0].instances
    true = project_pinhole(np.diag([500.0, 500, 1]), transform(instance.T_camera_object, model.keypoints))
    found = [dataset[i]["points"].numpy() for i in range(12)]
    whole = [points for points in found if (points > NOWHERE).all()]
    assert whole and {turned(points) for points in whole} == {turned(true)}
    bright = torch.zeros(8, 3, 32, 32)
    bright[..., :8] = 1.0
    augmentation = make_augmentation(AugmentConfig(cutout=0.0), torch.device("cpu"))
    for seed in range(4):
        columns = augmented(bright, augmentation, seed).mean((1, 2))
        assert (columns[:, :8].mean(1) > columns[:, 8:].mean(1) + 0.2).all()


def turned(points):
    """Which way round the projections of three keypoints lie, +1 or -1."""
    a, b = points[2] - points[0], points[4] - points[0]
    return np.sign(a[0] * b[1] - a[1] * b[0])


def test_nearly_every_crop_is_about_an_object_and_one_hardly_seen_is_nobodys_background(tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path)
    objects, (image, *_) = config.load_objects(), BopDataset(tiny_data / "train").images
    (instance,) = image.instances
    hidden = dataclasses.replace(image, instances=(dataclasses.replace(instance, visib_fract=0.05),))
    empty = dataclasses.replace(image, instances=())
    how = PointTargets(objects), config.crops, 0
    dataset = CropDataset([image] * 9 + [empty] * 20 + [hidden], objects, *how)
    samples = [dataset[i] for i in range(len(dataset.numbers))]
    about = [bool(s["visible"].any()) for s in samples]
    assert (sum(about), len(about)) == (9, 10)  # a tenth of the samples is empty, as asked
    assert all(s["absent"].item() == (not seen) for s, seen in zip(samples, about))
    sample = dataset.sample(read_tile(hidden, {1}), np.random.default_rng(0))
    assert sample["absent"].item() == 0 and not sample["visible"].any()
    with pytest.raises(ValueError, match="wanted an object to train on"):
        CropDataset([empty, hidden], objects, *how)


def test_maps_of_other_classes_learn_to_be_empty():
    maps = torch.rand(2, 3, 2, 4, *(8, 8), requires_grad=True)  # (T, B, C, K, h, w)
    absent = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    empty_loss(maps, absent).backward()
    assert (maps.grad[:, 0, 0] > 0).all() and (maps.grad[:, 1, 1] > 0).all()
    assert not (maps.grad[:, 0, 1].any() or maps.grad[:, 1, 0].any() or maps.grad[:, 2].any())
    torch.testing.assert_close(empty_loss(maps[:1, :1], absent[:1]), maps[0, 0, 0].square().mean())


def test_farthest_keypoints_are_the_meshs(tiny_data):
    (model,) = load_objects(tiny_data, keypoints="farthest", count=4)
    corners = load_objects(tiny_data)[0].keypoints
    assert all(np.isclose(corners, point).all(1).any() for point in model.keypoints)
    sides = np.linalg.norm(model.keypoints[:, None] - model.keypoints, axis=-1)[np.triu_indices(4, 1)]
    assert sides.max() == pytest.approx(0.145492, abs=1e-5)  # the first two: a diagonal of the cube
    with pytest.raises(ValueError, match="keypoints"):
        load_objects(tiny_data, keypoints="corners+centre", count=8)


# what teaches what


def test_without_weights_one_branch_learns_what_a_plain_network_does(batch, tiny_data, tmp_path):
    alone = dataclasses.replace(PLAIN, aggregation="mean")
    weights = dataclasses.replace(settings(tiny_data, tmp_path).weights, online=0.0, ensemble=0.0)
    totals, gradients = [], []
    for shape, online in ((PLAIN, OnlineConfig()), (alone, ONLINE)):
        torch.manual_seed(0)
        network = make_network(shape)
        terms = losses(outputs_of(network, batch), batch, network, Supervision(weights, online=online))
        terms["total"].backward()
        totals.append(terms["total"])
        gradients.append([p.grad for p in network.parameters()])
    assert torch.equal(*totals) and all(torch.equal(a, b) for a, b in zip(*gradients))
    assert terms["online"].abs() < 1e-9  # T = 1: the ensemble is the branch


def test_the_ensembles_error_reaches_the_unit_and_its_teaching_does_not(batch, tiny_data, tmp_path):
    network, weights = make_network(BRANCHES), settings(tiny_data, tmp_path).weights
    terms = losses(outputs_of(network, batch), batch, network, Supervision(weights, online=ONLINE))
    unit = list(network.unit.parameters())
    taught = torch.autograd.grad(terms["online"], unit, retain_graph=True, allow_unused=True)
    assert all(g is None or not g.any() for g in taught)
    assert any(g.any() for g in torch.autograd.grad(terms["ensemble"], unit))


def test_what_is_taught_is_the_ensemble(batch):
    teaching = FAMILIES["heatmap"].teaching
    outputs = outputs_of(make_network(BRANCHES).eval(), batch)
    assert torch.equal(teaching(outputs), outputs.ensemble) and not teaching(outputs).requires_grad
    plain = make_network(PLAIN).eval()
    assert torch.equal(teaching(outputs_of(plain, batch)), plain(prepare(batch)))


def test_votes_of_branches_learn_from_their_ensemble(tiny_data, tmp_path):
    shape = NetworkConfig(width=16, depth=1, groups=4, branches=3, aggregation="fau-slim")
    online = OnlineConfig("ensemble", "transport")
    config = RunConfig("votes", data=tiny_data, crops=CropConfig(128), network=shape, online=online)
    dataset = make_dataset(config, "train")
    batch = dataset.collate([dataset[i] for i in range(4)])
    network = make_network(shape)
    for head in (network.head, *network.others):
        torch.nn.init.zeros_(head.score.bias)  # surer than at the start, when nobody would be asked
    terms = losses(outputs_of(network, batch), batch, network, Supervision(config.weights, online=online))
    assert {"score", "vote", "ensemble", "online_vote", "online_score", "online_unsolved"} <= set(terms)
    unit, others = list(network.unit.parameters()), list(network.others.parameters())
    taught = torch.autograd.grad(terms["online_vote"], [*unit, *others], retain_graph=True, allow_unused=True)
    assert all(g is None or not g.any() for g in taught[: len(unit)])
    assert any(g is not None and g.any() for g in taught[len(unit) :])
    assert any(g.any() for g in torch.autograd.grad(terms["ensemble"], unit))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": PLAIN}, "aggregation"),
        ({"network": NetworkConfig(branches=2, aggregation="mean"), "keypoints": "corners"}, "align"),
        ({"network": NetworkConfig(branches=2), "keypoints": "corners"}, "aggregation"),
        ({"network": DenseConfig(), "online": OnlineConfig("peers")}, "no branches"),
        ({"network": DenseConfig(), "distill": DistillConfig("kl", teacher="x")}, "kl"),
        ({"crops": CropConfig(size=72)}, "multiples of 16, found 72x72"),
        (
            {
                "network": NetworkConfig(branches=2, aggregation="mean"),
                "online": OnlineConfig(),
                "distill": DistillConfig("adlp", teacher="x"),
            },
            "ensemble",
        ),
    ],
)
def test_settings_that_cannot_teach_are_refused(changes, message, tiny_data, tmp_path):
    with pytest.raises(ValueError, match=message):
        settings(tiny_data, tmp_path, **changes)


# runs


def test_a_stopped_run_ends_as_an_uninterrupted_one(trained, tiny_data, tmp_path, monkeypatch):
    config, presses = settings(tiny_data, tmp_path), iter([False, False, False, True])

    @contextlib.contextmanager
    def pressed_after_four():
        yield lambda: next(presses, False)

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.train.ctrl_c_between_steps", pressed_after_four)
        with pytest.raises(Stopped):
            train(config)
    again = checkpoint.load(train(config))["network"]
    expected = checkpoint.load(trained.folder / "last.ckpt")["network"]
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    assert load_config(config.folder) == config


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The trained run's bundle, and what was said of it."""
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    line = export_run(trained.folder, folder, {1: "cube"}, 64, 2)
    return open_bundle(folder), line


def test_the_bundle_is_the_deployed_branch_and_no_more(trained, exported, tiny_data, tmp_path):
    bundle, _ = exported
    manifest = bundle.manifest
    assert manifest.family == "heatmap" and manifest.network.outputs == ["heatmaps"]
    assert len(manifest.objects[0].keypoints) == 9
    plain = make_network(PLAIN)
    parameters, gflop = cost(plain, (64, 64))
    assert manifest.network.parameters == parameters
    assert manifest.network.gflop == pytest.approx(gflop, abs=1e-4)
    assert cost(make_network(BRANCHES), (64, 64), True)[1] > 1.1 * gflop  # training costs more

    changes = {"name": "plain", "network": PLAIN, "online": OnlineConfig(), "steps": 1}
    alone = settings(tiny_data, tmp_path / "runs", **changes)
    train(alone)
    export_run(alone.folder, tmp_path / "plain", {1: "cube"}, 64, 0)
    ours, theirs = (onnx.load(folder / "network.onnx") for folder in (bundle.folder, tmp_path / "plain"))
    assert [n.op_type for n in ours.graph.node] == [n.op_type for n in theirs.graph.node]

    deployed, _ = trained_network(trained)
    network = make_network(BRANCHES)
    network.load_state_dict(checkpoint.load(trained.folder / "last.ckpt")["network"])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        inside = network.eval()(images, with_features=True).final[0]
        assert torch.equal(deployed(images)[0], inside)
    found = load_network(bundle)(images.numpy())["heatmaps"]
    np.testing.assert_allclose(found, inside.numpy(), atol=1e-4)


def test_the_robot_runs_it_in_given_boxes(exported, tiny_data):
    bundle, line = exported
    assert "given_boxes" in line
    estimator = make_estimator(bundle, load_network(bundle), pose_score=0.0)
    done = list(run(estimator, BopDataset(tiny_data / "val").images, given_boxes=True))
    assert len(done) == 2


@pytest.mark.parametrize("method", ["naive", "adlp", "kl"])
@pytest.mark.usefixtures("exported")  # which measures the teacher
def test_a_plain_student_learns_from_the_ensemble(method, trained, tiny_data, tmp_path):
    distill = DistillConfig(method, teacher=trained.folder, floor=0.0)
    student = settings(
        tiny_data, tmp_path, name="student", network=PLAIN, online=OnlineConfig(), distill=distill
    )
    untaught = dataclasses.replace(student, name="untaught", distill=DistillConfig())
    ours, theirs = (checkpoint.load(train(config))["network"] for config in (student, untaught))
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)
