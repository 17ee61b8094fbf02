# SPDX-License-Identifier: Apache-2.0
"""The loop: a stopped run ends where an uninterrupted one does, and what comes out runs on the robot."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import training  # noqa: E402
from pose_kd_ros.bundle.manifest import DecodeSpec  # noqa: E402
from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from pose_kd_ros.core.camera import Camera  # noqa: E402
from pose_kd_ros.pipeline.families import make_estimator  # noqa: E402
from pose_kd_ros.pipeline.network import load_network  # noqa: E402
from training.config import RunConfig, check_same, load_config, to_json  # noqa: E402
from training.export.run import export_run  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.learner import learning_rate  # noqa: E402
from training.fit.train import train  # noqa: E402
from training.measure.calibrate import Chosen  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

SMALL = NetworkConfig(width=16, depth=1, groups=4)


def settings(data, runs, **changes):
    return dataclasses.replace(
        RunConfig(
            "run",
            data=data,
            runs=runs,
            network=SMALL,
            steps=6,
            batch_size=2,
            workers=0,
            precision="32-true",
            accelerator="cpu",
            checkpoint_every=2,
            log_every=2,
            val_every=6,
        ),
        **changes,
    )


def weights(path):
    return checkpoint.load(path)["network"]


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A finished, uninterrupted run."""
    config = settings(tiny_data, tmp_path_factory.mktemp("runs"))
    train(config)
    return config


def test_same_seed_same_weights_and_another_seed_others(trained, tiny_data, tmp_path):
    expected = weights(trained.folder / "last.ckpt")
    again = weights(train(settings(tiny_data, tmp_path)))
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    other = weights(train(settings(tiny_data, tmp_path, name="other", seed=1)))
    assert not all(torch.equal(expected[name], other[name]) for name in expected)


OPTIONS = (
    "--network.width 16 --network.depth 1 --network.groups 4 --steps 60 --batch-size 2 --workers 0 "
    "--tile-px 128 "
    "--precision 32-true --accelerator cpu --checkpoint-every 2 --log-every 2 --val-every 6 --name run"
).split()


def start(data, runs, *more):
    """The command a user types."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "training",
            "train",
            "student-cube-small",
            *OPTIONS,
            "--data",
            str(data),
            "--runs",
            str(runs),
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(data, runs, *more):
    process = start(data, runs, *more)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return weights(runs / "run" / "last.ckpt")


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    """The weights of a run that nothing interrupts."""
    return finished(tiny_data, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_weights(sent, whole, tiny_data, tmp_path):
    process = start(tiny_data, tmp_path)
    last = tmp_path / "run" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL), output
    if sent == signal.SIGINT:
        assert "the same command goes on from there" in output
    assert 0 < checkpoint.load(last)["step"] < 60

    resumed = finished(tiny_data, tmp_path)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_run_that_cannot_start_leaves_no_settings(tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path, init=tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"none\.ckpt"):
        train(config)
    assert not (config.folder / "config.json").exists()


def test_a_run_may_start_from_the_backbone_of_a_run_with_another_head(trained, tiny_data, tmp_path):
    wider = dataclasses.replace(SMALL, width=32)
    last = trained.folder / "last.ckpt"
    config = settings(tiny_data, tmp_path, network=wider, init=last, init_part="backbone", lr=1e-12, steps=1)
    train(config)
    ours, theirs = weights(config.folder / "last.ckpt"), weights(last)
    learnt = [n for n in theirs if n.startswith("backbone") and n.endswith("weight")]
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-6) for n in learnt)
    with pytest.raises(ValueError, match=r"last\.ckpt: wanted weights of this network \(all\), found others"):
        train(dataclasses.replace(config, name="all", init_part="all"))


def test_a_folder_with_other_settings_is_refused_by_field(trained):
    with pytest.raises(ValueError, match="batch_size: wanted 2, found 4"):
        train(dataclasses.replace(trained, batch_size=4))


def test_settings_that_were_half_written_are_named(trained, tmp_path):
    broken = dataclasses.replace(trained, runs=tmp_path)
    broken.folder.mkdir(parents=True)
    (broken.folder / "config.json").write_text("")
    with pytest.raises(ValueError, match=r"config\.json: wanted the settings of a run"):
        train(broken)


def test_settings_survive_the_disk(trained):
    assert load_config(trained.folder) == trained


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    checkpoint.save(path, {"step": 1})

    def full(_state, temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left, others = (tmp_path / f"last.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    for path in (left, others):
        path.write_bytes(b"half")
    checkpoint.save(tmp_path / "last.ckpt", {"step": 1})
    assert sorted(os.listdir(tmp_path)) == sorted([others.name, "last.ckpt"])


def test_a_setting_that_came_later_had_its_default(tmp_path):
    config = RunConfig("x")
    kept = json.loads(to_json(config))
    kept["crops"]["cells"] = "all"
    del kept["clip"], kept["weights"]["vote"]
    check_same(config, json.dumps(kept), tmp_path)
    with pytest.raises(ValueError, match=r"clip: wanted 1.0, found 2.0"):
        check_same(dataclasses.replace(config, clip=2.0), json.dumps(kept), tmp_path)


def test_learning_rate_rises_and_falls():
    config = RunConfig("x", steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[9] == pytest.approx(1.0)
    )
    assert rates[-1] < 0.01 and all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_exported_bundle_opens_and_replays(trained, tmp_path, monkeypatch):
    chosen = DecodeSpec(0.3, 0.61, [1.0, 2.0, 3.0, 4.0, 5.0], 1.5)
    curve = {"score": [0.0, 0.5, 1.0], "precision": [0.2, 0.5, 1.0], "recall": [0.9, 0.5, 0.1]}
    monkeypatch.setattr("training.export.run.choose", lambda *_: Chosen(chosen, {"found": 0.25}, curve))
    line = export_run(trained.folder, tmp_path / "tiny", {1: "tiny"}, 320, 2)
    assert "GFLOP" in line
    bundle = open_bundle(tmp_path / "tiny")
    assert "pose_score 0.61" in (trained.folder / "precision_recall.svg").read_text()
    assert bundle.manifest.decode == chosen and bundle.manifest.training.metrics == {"found": 0.25}
    assert bundle.manifest.training.steps == 6 and bundle.objects[0].name == "tiny"
    load_network(bundle)
    assert str(Path(training.__file__).parent).encode() not in bundle.network_path.read_bytes()


def test_a_network_that_says_how_sure_its_votes_are_trains_and_runs(tiny_data, tmp_path):
    network = dataclasses.replace(SMALL, scale=True)
    config = settings(tiny_data, tmp_path, network=network, steps=2, val_every=2)
    train(config)
    export_run(config.folder, tmp_path / "part", {1: "part"}, 128, 0)
    bundle = open_bundle(tmp_path / "part")
    assert bundle.manifest.network.outputs == ["scores", "offsets", "scales"]
    estimator = make_estimator(bundle, load_network(bundle), cell_score=0.0, pose_score=0.0)
    camera = Camera(np.array([[500.0, 0, 128], [0, 500, 96], [0, 0, 1]]), np.zeros(0), "plumb_bob", 256, 192)
    estimator.estimate(np.zeros((192, 256, 3), np.uint8), camera)


def test_a_run_without_a_checkpoint_is_not_exported(tiny_data, tmp_path):
    config = settings(tiny_data, tmp_path)
    config.folder.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"config\.json: wanted a run's settings, found no such file"):
        export_run(config.folder, tmp_path / "none", {}, 320, 0)
