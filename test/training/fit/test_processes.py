# SPDX-License-Identifier: Apache-2.0
"""Several processes that share each batch: the loss curve of one process with all of it."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from training.data.augment import AugmentConfig, augmented, make_augmentation  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.fit.teacher import EVALUATION  # noqa: E402
from training.fit.train import train  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

from .test_train import settings  # noqa: E402

RUN = [sys.executable, "-m"]
TORCHRUN = [*RUN, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
# The norm is ill-conditioned; a transport problem ends with an error of up to 1e-3 of its mass.
NEAR = {"train/norm": 5e-2, "train/kd_vote": 5e-4, "train/total": 5e-4}
# Crops about the object: where a picture is empty to its border, rounding alone turns the gradient by 1 %.
SHORT = (
    "--crops.search-share 0 --steps 6 --batch-size 4 --workers 0 --precision 32-true "
    "--accelerator cpu --log-every 1 --val-every 3 --checkpoint-every 100 --lr 1e-5"
)
OPTIONS = (
    "training train student-cube-none --init None --network.width 16 --network.depth 1 --network.groups 4 "
    "--crops.size 128 " + SHORT
).split()
BRANCHES = (
    "training train student-lmo-okdhp --network.backbone darknet-tiny-h --network.widths 16 16 16 "
    "--network.classes 1 --tile-px 0 --crops.size 64 " + SHORT
).split()

CODES = (
    "training train student-lmo-dense-none --network.width 16 --network.classes 1 --tile-px 0 "
    "--crops.size 64 " + SHORT
).split()


@pytest.fixture(scope="module")
def teacher(tiny_data, tmp_path_factory):
    config = settings(
        tiny_data,
        tmp_path_factory.mktemp("teachers"),
        name="teacher",
        steps=2,
        crops=CropConfig(128),
        val_every=100,
        network=NetworkConfig(width=32, depth=1, groups=4),
    )
    train(config)
    (config.folder / EVALUATION).write_text(json.dumps({"step": 2, "metrics": {"found": 0.9}}))
    return config.folder


def curves(launcher, data, runs, name, *more, options=OPTIONS):
    """Every logged value of a run that is started by the command a user types."""
    command = [*launcher, *options, "--data", str(data), "--runs", str(runs), "--name", name, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    events = EventAccumulator(str(runs / name)).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("method", ["none", "adlp"])
def test_two_processes_under_torchrun_have_the_loss_curve_of_one(method, teacher, tiny_data, tmp_path):
    taught = ["--distill.method", method, "--distill.teacher", str(teacher), "--distill.teacher-score", "0"]
    taught = taught if method != "none" else []
    one = curves(RUN, tiny_data, tmp_path, "one", *taught)
    two = curves(TORCHRUN, tiny_data, tmp_path, "two", "--devices", "2", *taught)
    assert set(one) == set(two) and len(one["train/total"]) == 6 and len(one["val/total"]) == 2
    for tag in set(one) - {"train/kd_unsolved", "train/kd_ratio"}:  # of each process's own crops
        near = NEAR.get(tag, 1e-4) if method == "adlp" or tag == "train/norm" else 1e-4
        assert two[tag] == pytest.approx(one[tag], rel=near, abs=1e-7), tag


@pytest.mark.parametrize("form", ["ours", "released"])
def test_branches_that_teach_each_other_do_too(form, tiny_data, tmp_path):
    more = ["--online.released", "--online.temperature", "1"] if form == "released" else []
    one = curves(RUN, tiny_data, tmp_path, "one", *more, options=BRANCHES)
    two = curves(TORCHRUN, tiny_data, tmp_path, "two", "--devices", "2", *more, options=BRANCHES)
    assert set(one) == set(two) and len(one["train/online"]) == 6 and len(one["val/ensemble"]) == 2
    for tag in set(one) - {
        "train/online_ratio",
        "val/online_ratio",
        "train/kd_ratio",
    }:  # of each process's own crops
        assert two[tag] == pytest.approx(one[tag], rel=1e-2 if tag == "train/norm" else 1e-4, abs=1e-7), tag


def test_surface_codes_do_too(dense_data, tmp_path):
    one = curves(RUN, dense_data, tmp_path, "one", options=CODES)
    two = curves(TORCHRUN, dense_data, tmp_path, "two", "--devices", "2", options=CODES)
    assert set(one) == set(two) and len(one["train/code"]) == 6 and len(one["val/mask"]) == 2
    for tag in one:
        assert two[tag] == pytest.approx(one[tag], rel=1e-2 if tag == "train/norm" else 1e-4, abs=1e-7), tag


OFF = {"brightness": 0.0, "contrast": 0.0, "grey": 0.0, "noise": 0.0, "cutout": 0.0}


def made(**strengths):
    return make_augmentation(AugmentConfig(**strengths), torch.device("cpu"))


def test_an_image_is_augmented_alike_whoever_has_it():
    augmentation, images = made(grey=0.5, cutout=0.5), torch.rand(6, 3, 32, 48)
    whole = augmented(images, augmentation, seed=3)
    halves = [augmented(images[part], augmentation, 3, part.start, 6) for part in (slice(0, 2), slice(2, 6))]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, augmented(images, augmentation, seed=4))


def test_augmentation_does_what_its_strengths_say():
    images = torch.rand(8, 3, 32, 48)
    torch.testing.assert_close(augmented(images, made(**OFF), 0), images)
    grey = augmented(images, made(**OFF | {"grey": 1.0}), 0)
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    erased = augmented(images, made(**OFF | {"cutout": 1.0}), 0) == 0.5
    share = erased.all(1).float().mean((1, 2))
    assert (share > 0.002).all() and (share < 0.09).all()


def test_augmentation_is_seen_to_add_noise_of_its_strength():
    images = torch.full((64, 3, 32, 32), 0.5)
    noisy = augmented(images, made(**OFF | {"noise": 0.03}), 0) - images
    spread = noisy.std((1, 2, 3))
    assert ((spread < 1e-6) | ((spread - 0.03).abs() < 0.003)).all() and 5 < (spread > 1e-6).sum() < 35
