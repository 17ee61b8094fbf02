# SPDX-License-Identifier: Apache-2.0
"""Distillation: what must be true of it whatever the networks, and the whole way through the trainer."""

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stopping import stopped_after  # noqa: E402

from pose_kd_ros.core.cells import cell_grid  # noqa: E402
from pose_kd_ros.core.object_model import representatives  # noqa: E402
from training.config import LossWeights, RunConfig, to_json  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.data.targets import Instance, collate, make_targets  # noqa: E402
from training.families import FAMILIES, Distillation, Supervision  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.step import losses, prepare  # noqa: E402
from training.fit.teacher import EVALUATION, Teacher, check_teacher, frozen, load_teacher  # noqa: E402
from training.fit.train import train  # noqa: E402
from training.losses.distill import (  # noqa: E402
    DistillConfig,
    Votes,
    adlp_loss,
    certainty,
    naive_vote_loss,
    pack,
    score_loss,
    student_votes,
    teacher_votes,
)
from training.losses.features import FeatureDistillation, attention  # noqa: E402
from training.losses.task import keypoint_losses  # noqa: E402
from training.models.keypoint import KeypointNetwork, NetworkConfig  # noqa: E402

from ..losses.test_losses import CENTERS, CUBE, STRIDES, K, a_pose, perfect, sample  # noqa: E402
from .test_train import SMALL, settings, weights  # noqa: E402

LEVELS = torch.repeat_interleave(torch.arange(4), torch.tensor([(256 // s) ** 2 for s in STRIDES]))
CENTERS_T = torch.tensor(CENTERS, dtype=torch.float32)
ADLP = DistillConfig("adlp", teacher="somewhere")
RELEASED = dataclasses.replace(ADLP, mass="score", rho=0.25, eps=1e-6)
METHODS = ("naive", "fkd", "adlp", "adlp+fkd")


def teachers(batch, offsets, logits=None):
    """Votes of a teacher with these offsets and sure scores, and the representatives it means."""
    if logits is None:
        logits = torch.full((len(offsets), len(CENTERS), 1), 4.0)
    return teacher_votes(logits, offsets, CENTERS_T, LEVELS, batch, 0.1)


def students(batch, offsets, logits=None):
    if logits is None:
        logits = torch.full((len(offsets), len(CENTERS), 1), 1.0)
    return student_votes(logits, offsets, CENTERS_T, batch)


def everywhere(pose):
    """Offsets (1, N, 1, 8, 2) with which every cell votes for the pose."""
    pixels = (pose[:3, :3] @ CUBE.keypoints.T + pose[:3, 3:]).T @ K.T
    return torch.tensor(pixels[:, :2] / pixels[:, 2:] - CENTERS[:, None], dtype=torch.float32)[None, :, None]


def first(pose):
    return representatives(pose, CUBE)[0]


@pytest.mark.parametrize("config", [ADLP, RELEASED], ids=["ours", "released"])
def test_a_student_that_votes_as_its_teacher_has_nothing_to_learn(config):
    votes = Votes(
        torch.rand(3, 9, 8, 2) * 200, torch.rand(3, 9) * 0.8 + 0.1, torch.ones(3, 9, dtype=torch.bool)
    )
    student = dataclasses.replace(votes, points=votes.points.clone().requires_grad_())
    loss, unsolved = adlp_loss(student, votes, (256, 256), config)
    loss.backward()
    assert loss.abs() < 1e-7 and unsolved == 0 and student.points.grad.abs().max() < 1e-7


@pytest.mark.parametrize("config", [ADLP, RELEASED], ids=["ours", "released"])
def test_votes_are_drawn_towards_the_teachers(config):
    batch = collate([sample(a_pose(1)), sample(a_pose(2))])
    offsets = (perfect(batch) + 5 * torch.randn(2, len(CENTERS), 1, 8, 2)).requires_grad_()
    teacher, _ = teachers(batch, torch.cat([everywhere(first(a_pose(i))) for i in (1, 2)]))
    loss, _ = adlp_loss(students(batch, offsets), teacher, (256, 256), config)
    (pull,) = torch.autograd.grad(loss, offsets)
    step = offsets.detach() - pull * 0.5 * 256**2
    closer, _ = adlp_loss(students(batch, step), teacher, (256, 256), config)
    assert closer < loss


def test_the_loss_knows_neither_the_size_of_the_batch_nor_of_the_image():
    one = [sample(a_pose(1))]
    offsets = perfect(collate(one)) + 4 * torch.randn(1, len(CENTERS), 1, 8, 2)
    teacher_offsets = everywhere(first(a_pose(1)))
    alone, _ = adlp_loss(
        students(collate(one), offsets), teachers(collate(one), teacher_offsets)[0], (256, 256), ADLP
    )
    twice = collate(one * 2)
    student, teacher = (
        students(twice, offsets.repeat(2, 1, 1, 1, 1)),
        teachers(twice, teacher_offsets.repeat(2, 1, 1, 1, 1))[0],
    )
    assert adlp_loss(student, teacher, (256, 256), ADLP)[0].item() == pytest.approx(alone.item(), rel=1e-5)
    larger = (dataclasses.replace(v, points=v.points * 2) for v in (student, teacher))
    assert adlp_loss(*larger, (512, 512), ADLP)[0].item() == pytest.approx(alone.item(), rel=1e-4)


def test_the_teacher_speaks_through_its_best_cells_of_each_level():
    batch = collate([sample(a_pose(1))])
    logits = torch.full((1, len(CENTERS), 1), -6.0)
    inside = batch["inside_cell"]
    logits[0, inside, 0] = torch.linspace(-1, 3, len(inside))[torch.randperm(len(inside))]
    teacher, _ = teachers(batch, everywhere(first(a_pose(1))), logits)
    for level in range(4):
        here = inside[LEVELS[inside] == level]
        best = logits[0, here, 0].sigmoid().sort(descending=True).values[: int(batch["quota"][0, level])]
        assert np.isin(best.numpy(), teacher.scores[0].numpy()).all()
    assert teacher.real.sum() == min(len(inside), int(batch["quota"].sum()))
    hesitant, _ = teachers(batch, everywhere(first(a_pose(1))), torch.full_like(logits, -3.0))
    assert not hesitant.real.any()


def test_the_pose_of_a_symmetric_object_is_learnt_in_the_representative_that_the_teacher_means():
    pose = next(p for p in (a_pose(i) for i in range(200)) if len(representatives(p, CUBE)) > 1)
    batch = collate([sample(pose)])
    tied = representatives(pose, CUBE)
    for index, wanted in enumerate(tied[:2]):
        _, meant = teachers(batch, everywhere(wanted))
        assert meant.tolist() == [index]
        terms = keypoint_losses(
            torch.zeros(1, len(CENTERS), 1), everywhere(wanted), CENTERS_T, batch, choice=meant
        )
        other = keypoint_losses(
            torch.zeros(1, len(CENTERS), 1), everywhere(wanted), CENTERS_T, batch, choice=1 - meant
        )
        assert terms["vote"] < 1e-6 < 1e-3 < other["vote"]


@pytest.mark.parametrize("config", [ADLP, RELEASED], ids=["ours", "released"])
@pytest.mark.parametrize("silent", ["student", "teacher", "both"])
def test_silence_on_either_side_is_no_loss_and_keeps_the_graph_whole(config, silent):
    empty = np.zeros((256, 256), bool) if silent != "teacher" else None
    batch = collate([sample(a_pose(1), mask=empty)])
    offsets = torch.zeros(1, len(CENTERS), 1, 8, 2, requires_grad=True)
    logits = torch.full((1, len(CENTERS), 1), -9.0 if silent != "student" else 4.0)
    loss, _ = adlp_loss(
        students(batch, offsets), teachers(batch, offsets.detach(), logits)[0], (256, 256), config
    )
    loss.backward()
    assert loss == 0 and (offsets.grad == 0).all()


def test_instances_of_several_classes_do_not_mix():
    other = dataclasses.replace(CUBE, id=2)
    masks = np.zeros((2, 256, 256), bool)
    masks[0, 20:120, 20:120], masks[1, 130:230, 130:230] = True, True
    poses = [a_pose(1), a_pose(2)]
    targets = make_targets(
        [Instance(i, pose, mask, 100.0) for i, (pose, mask) in enumerate(zip(poses, masks))],
        [CUBE, other], K, (256, 256), STRIDES, np.random.default_rng(0),
    )  # fmt: skip
    batch = collate([{"image": torch.zeros(3, 256, 256), **targets}])
    offsets = torch.cat([everywhere(first(pose)) for pose in poses], 2)
    logits = torch.full((1, len(CENTERS), 2), 3.0)
    teacher, _ = teachers(batch, offsets, logits)
    student = students(batch, offsets, logits)
    assert teacher.real.any(1).tolist() == student.real.any(1).tolist() == [True, True]
    assert adlp_loss(student, teacher, (256, 256), ADLP)[0] < 1e-6
    swapped = dataclasses.replace(teacher, points=teacher.points.flip(0))
    assert adlp_loss(student, swapped, (256, 256), ADLP)[0] > 1e-3


def test_packing_keeps_every_vote_of_every_instance():
    instance = torch.tensor([2, 0, 2, 2, 0])
    points, scores = torch.rand(5, 8, 2), torch.rand(5)
    votes = pack(instance, 4, points, scores)
    assert votes.real.sum(1).tolist() == [2, 0, 3, 0] and votes.points.shape == (4, 3, 8, 2)
    for i in range(4):
        torch.testing.assert_close(votes.points[i][votes.real[i]], points[instance == i])


def test_keypoints_that_the_teacher_is_unsure_of_count_less():
    points = torch.zeros(1, 10, 8, 2)
    points[:, :, 3] = torch.randn(10, 2)
    weight = certainty(points, torch.ones(1, 10))
    assert weight.mean().item() == pytest.approx(1) and weight[0].argmin() == 3


def test_soft_scores_pull_to_the_teachers_and_rest_there():
    teacher = torch.randn(2, 30, 1)
    assert score_loss(teacher[:, :20], teacher, 5) < 1e-12  # the teacher has one level more
    logits = torch.zeros(2, 30, 1, requires_grad=True)
    score_loss(logits, teacher, 5).backward()
    clear = teacher.abs() > 0.3
    assert (logits.grad.sign() == -teacher.sign())[clear].all()


def test_naive_is_the_distance_cell_by_cell():
    votes = torch.rand(6, 8, 2)
    assert naive_vote_loss(votes, votes + 12.8, (128, 128)).item() == pytest.approx(0.1, rel=1e-4)
    assert naive_vote_loss(votes[:0], votes[:0], (128, 128)) == 0


def test_features_of_two_widths_are_compared_and_only_ours_move():
    student = [torch.rand(2, 16, 8, 8, requires_grad=True), torch.rand(2, 16, 4, 4, requires_grad=True)]
    teacher = [torch.rand(2, 32, 8, 8, requires_grad=True), torch.rand(2, 32, 4, 4, requires_grad=True)]
    module = FeatureDistillation(16, 32, 2)
    module(student, teacher).backward()
    assert all(torch.isfinite(s.grad).all() and s.grad.abs().sum() > 0 for s in student)
    assert all(t.grad is None for t in teacher)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    places = attention(teacher[0], 1)
    assert places.shape == (2, 1, 8, 8) and places.mean().item() == pytest.approx(1, rel=1e-5)


def small_batch():
    targets = [sample(a_pose(i)) for i in range(2)]
    random = torch.Generator().manual_seed(0)
    for target in targets:
        target["image"] = (torch.rand(3, 256, 256, generator=random) * 255).to(torch.uint8)
    return collate(targets)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_leaves_the_teacher_as_it_was(method):
    torch.manual_seed(0)
    student, teacher = KeypointNetwork(SMALL), KeypointNetwork(NetworkConfig(width=32, depth=1, groups=4))
    config = dataclasses.replace(ADLP, method=method, teacher_score=0.0)
    layers = FAMILIES["keypoint"].feature_layers(config, teacher.config, SMALL)
    frozen_teacher = Teacher(frozen(teacher), RunConfig("teacher"))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = small_batch()
    images = prepare(batch)
    outputs = student(images, with_features=True)
    how = Supervision(LossWeights(), Distillation(config, layers), frozen_teacher(images))
    terms = losses(outputs, batch, student, how)
    terms["total"].backward()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())
    wanted = {
        "naive": {"kd_vote", "kd_score"},
        "fkd": {"kd_feature"},
        "adlp": {"kd_vote", "kd_score", "kd_unsolved"},
    }
    wanted["adlp+fkd"] = wanted["adlp"] | wanted["fkd"]
    assert set(terms) == {"score", "vote", "total"} | wanted[method]


# --- the whole way


@pytest.fixture(scope="module")
def teacher(tiny_data, tmp_path_factory):
    """A teacher's run of two steps, with the figures that let it teach."""
    config = settings(
        tiny_data, tmp_path_factory.mktemp("teachers"), name="teacher", steps=2,
        network=NetworkConfig(width=32, depth=1, groups=4),
    )  # fmt: skip
    train(config)
    (config.folder / EVALUATION).write_text(json.dumps({"step": 2, "metrics": {"found": 0.9}}))
    return config.folder


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_distillation_ends_where_an_uninterrupted_one_does(method, teacher, tiny_data, tmp_path):
    distill = DistillConfig(method, teacher=teacher, teacher_score=0.0)
    whole = settings(tiny_data, tmp_path / "a", distill=distill, steps=4)
    train(whole)
    kept = checkpoint.load(whole.folder / "last.ckpt")
    half = settings(tiny_data, tmp_path / "b", distill=distill, steps=4, val_every=100)
    half.folder.mkdir(parents=True)

    with stopped_after(2):
        train(half)
    train(half)
    again = checkpoint.load(half.folder / "last.ckpt")
    assert all(torch.equal(value, again["network"][name]) for name, value in kept["network"].items())
    assert ("features" in kept) == ("fkd" in method)


def test_all_methods_start_alike_and_see_the_same_data(teacher, tiny_data, tmp_path):
    """With the teacher's weight at 0 a distilled run is the plain one, to the bit."""
    nothing = LossWeights(kd_vote=0.0, kd_score=0.0)
    distill = DistillConfig("adlp", teacher=teacher, teacher_score=0.99)
    plain, silent = (
        settings(tiny_data, tmp_path / "a"),
        settings(tiny_data, tmp_path / "b", distill=distill, weights=nothing),
    )
    ends = [weights(train(config)) for config in (plain, silent)]
    assert all(torch.allclose(value, ends[1][name], atol=1e-6) for name, value in ends[0].items())


def test_teachers_that_will_not_do_are_refused_by_name(teacher, tiny_data, tmp_path):
    student = settings(tiny_data, tmp_path)

    def refused(change, match, run=student, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in ("config.json", "last.ckpt", EVALUATION):
            (folder / name).write_bytes((teacher / name).read_bytes())
        change(folder)
        with pytest.raises(ValueError, match=match):
            taught = dataclasses.replace(run, distill=DistillConfig("adlp", teacher=folder, **options))
            check_teacher(load_teacher(folder), taught)

    refused(lambda f: (f / "config.json").unlink(), "found no such file; is")
    refused(lambda f: (f / "last.ckpt").unlink(), "wanted a checkpoint, found none; train the teacher first")
    refused(lambda f: (f / EVALUATION).unlink(), "wanted a teacher that has been measured")
    late = json.dumps({"step": 1, "metrics": {"found": 0.9}})
    refused(lambda f: (f / EVALUATION).write_text(late), "wanted figures of step 2, found those of step 1")
    refused(lambda f: None, r"finds 0.95 of the objects .* found 0.900", floor=0.95)
    deep = dataclasses.replace(student, network=dataclasses.replace(SMALL, levels=5))
    refused(lambda f: None, "wanted 5 levels or more, as the student, found 4", deep)
    small = dataclasses.replace(student, crops=CropConfig(128))
    refused(lambda f: None, "wanted crops 128x128 px, as the student, found 256x256 px", small)
    models = tmp_path / "other" / "models"
    models.mkdir(parents=True)
    infos = json.loads((tiny_data / "models" / "models_info.json").read_text())
    infos["1"]["symmetries_continuous"] = [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]
    (models / "models_info.json").write_text(json.dumps(infos))
    refused(lambda f: None, "found one for those of", dataclasses.replace(student, data=tmp_path / "other"))
    with pytest.raises(ValueError, match=r"--distill\.teacher: wanted the folder"):
        DistillConfig("adlp")
    with pytest.raises(ValueError, match="wanted a number for mass score"):
        DistillConfig("adlp", teacher=teacher, mass="score")


def test_a_teacher_that_learnt_on_in_the_meantime_is_noticed(teacher, tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path, steps=2, distill=DistillConfig("adlp", teacher=teacher))
    train(config)
    state = checkpoint.load(config.folder / "last.ckpt")
    checkpoint.save(config.folder / "last.ckpt", state | {"teacher_step": 1})
    with pytest.raises(ValueError, match=r"wanted its teacher .* at step 1, found it at step 2"):
        train(config)


def test_the_features_loss_is_a_mean_over_images():
    student, teacher = [torch.rand(2, 16, 8, 8)], [torch.rand(2, 32, 8, 8)]
    module = FeatureDistillation(16, 32, 1)
    once, twice = (
        module(student, teacher),
        module([student[0].repeat(2, 1, 1, 1)], [teacher[0].repeat(2, 1, 1, 1)]),
    )
    assert twice.item() == pytest.approx(once.item(), rel=1e-5)


def test_hopeless_scores_are_masses_all_the_same():
    votes = Votes(torch.rand(1, 5, 8, 2), torch.full((1, 5), 1e-16), torch.ones(1, 5, dtype=torch.bool))
    assert adlp_loss(votes, votes, (256, 256), ADLP)[0] < 1e-7


def test_a_run_that_knew_no_distillation_can_be_resumed(tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path, steps=2)
    train(config)
    kept = json.loads((config.folder / "config.json").read_text())
    del kept["distill"]
    (config.folder / "config.json").write_text(json.dumps(kept))
    train(config)
    assert "distill" in to_json(config)


def test_cells_of_shared_levels_come_first():
    """A teacher with one level more than its student has the student's cells at the same places."""
    fine, coarse = cell_grid(256, 256, STRIDES)[0], cell_grid(256, 256, (*STRIDES, 128))[0]
    np.testing.assert_array_equal(coarse[: len(fine)], fine)
