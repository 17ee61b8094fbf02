# SPDX-License-Identifier: Apache-2.0
"""From a mesh to a bundle in one command."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moderngl")

from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from training.cli import TRUNK, Make  # noqa: E402
from training.export import make  # noqa: E402
from training.export.make import PLAN, Plan, plan_of, run_of  # noqa: E402
from training.families import make_network  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.learner import start_from  # noqa: E402
from training.fit.train import Stopped, train  # noqa: E402
from training.recipes.surface import BATCH  # noqa: E402
from training.render import shapes  # noqa: E402
from training.render.mesh_files import Target, write_models  # noqa: E402


@pytest.fixture
def command(tmp_path):
    write_models(tmp_path / "mesh", [Target(1, shapes.cube(0.08), {})])
    mesh = tmp_path / "mesh" / "obj_000001.ply"
    return Make(mesh, tmp_path / "part", hours=0.001, appearance="random", work=tmp_path / "work")


def test_a_mesh_becomes_a_measured_bundle_and_a_page(command, monkeypatch, capsys):
    """Stopped in training, it goes on: what is there already is not made again."""
    small = {"MOST_VIEWS": 12, "LEAST_VIEWS": 12, "MOST_FRAMES": 4, "LEAST_FRAMES": 4, "PAGE_FRAMES": 2}
    for name, value in small.items():
        monkeypatch.setattr(make, name, value)
    monkeypatch.setattr(make, "VAL_VIEWS", 0.25)
    calls = []

    def stopping(config):
        calls.append(config.steps)
        if len(calls) == 1:
            raise Stopped("stopped after step 0")
        return train(config)

    monkeypatch.setattr("training.fit.train.train", stopping)
    with pytest.raises(Stopped):
        make.make(command)
    plan = Plan(**json.loads((command.work / PLAN).read_text()))
    rendered = (command.work / "data/views/000000/rgb/000000.png").stat().st_mtime_ns
    said = make.make(command)
    assert calls == [plan.steps] * 2 and plan.views == 12
    assert (command.work / "data/views/000000/rgb/000000.png").stat().st_mtime_ns == rendered
    bundle = open_bundle(command.out)
    assert bundle.objects[0].name == "part" and bundle.manifest.training.metrics["images"] == 2
    assert (command.work / "evaluation" / "report.html").exists() and "ros2 launch" in said
    assert "12 views" in capsys.readouterr().out


def test_the_plan_follows_the_time_and_is_kept(command, monkeypatch):
    monkeypatch.setattr(make, "fastest", lambda objects: ("32-true", 40.0))
    night = plan_of(replace(command, hours=8.0), 1)
    assert night == Plan(40_000, 2000, int(0.85 * 8 * 3600 * 40 / BATCH), "32-true", 40.0)
    assert plan_of(replace(command, hours=1.0), 1) == night  # a run that was begun keeps its plan


def test_no_time_is_refused(command):
    with pytest.raises(ValueError, match="--hours: wanted more than 0, found 0"):
        plan_of(replace(command, hours=0), 1)


def test_it_starts_from_the_trunk_that_ships(tmp_path):
    """Of another number of classes; its weights are half precision, its statistics are not."""
    run = run_of(Make(mesh=tmp_path, out=tmp_path / "x"), None, 1)
    assert run.init == TRUNK and run.init_part == "trunk"
    network, weights = make_network(run.network), checkpoint.load(TRUNK)["network"]
    start_from(network, weights, run)
    state = network.state_dict()
    assert all(
        torch.equal(state[name], value.float()) for name, value in weights.items() if "num_" not in name
    )
    assert set(state) - set(weights) == {name for name in state if name.startswith("last.")}
    assert all(torch.isfinite(value).all() for value in weights.values())
