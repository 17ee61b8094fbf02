# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest

from standalone import environment, prerequisites
from standalone.layout import DISTROS, ROOT, Layout
from standalone.prerequisites import Missing
from standalone.wheels import mend_exports

REQUIREMENTS = ROOT / "standalone" / "requirements"


@pytest.fixture
def layout(tmp_path):
    made = Layout("kilted", tmp_path)
    made.logs.mkdir(parents=True)
    return made


@pytest.mark.parametrize("version", [(3, 9), (3, 15), (2, 7)])
def test_pythons_without_wheels_are_refused_with_both_versions(version):
    with pytest.raises(Missing, match=rf"3\.10 to 3\.14, found {version[0]}\.{version[1]}"):
        prerequisites.check_python(version)


def test_machines_without_wheels_are_sent_to_their_distribution():
    with pytest.raises(Missing, match=r"this is Linux on aarch64.*distribution"):
        prerequisites.check_platform("Linux", "aarch64")


def test_all_that_is_missing_stands_in_one_apt_line(monkeypatch):
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name: None)
    monkeypatch.setattr(prerequisites.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(prerequisites.sysconfig, "get_path", lambda name: "/nowhere")
    lacking = prerequisites.missing_packages((3, 12))
    assert list(lacking) == ["python3.12-venv", "python3.12-dev", "build-essential"]
    message = prerequisites.apt_message(lacking)
    assert message.count("apt-get") == 1
    assert "sudo apt-get install -y python3.12-venv python3.12-dev build-essential" in message
    assert "a C++ compiler" in message and "Python's C headers" in message


def test_only_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(prerequisites.shutil, "which", lambda name: None if name == "make" else "/usr/bin/x")
    assert prerequisites.missing_packages(sys.version_info[:2]) == {"build-essential": "make"}


def test_the_wheels_exports_are_mended(tmp_path):
    export = tmp_path / "share" / "p" / "cmake" / "pExport.cmake"
    export.parent.mkdir(parents=True)
    python = "/opt/python/cp311-cp311/include/python3.11"
    numpy = "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    export.write_text(f'set(x "{python};{numpy};${{_IMPORT_PREFIX}}/include")\n')
    assert mend_exports(tmp_path, Path("/py/include"), Path("/np/include")) == 1
    assert export.read_text() == 'set(x "/py/include;/np/include;${_IMPORT_PREFIX}/include")\n'
    assert mend_exports(tmp_path, Path("/py/include"), Path("/np/include")) == 0


def make_steps(tmp_path, done):
    source = tmp_path / "source.txt"
    source.write_text("one")
    names = ("first", "second", "third")
    inputs = {"second": (source,)}
    return source, [
        environment.Step(name, lambda layout, name=name: done.append(name), inputs.get(name, ()))
        for name in names
    ]


def run_all(layout, steps):
    for index, step in enumerate(steps):
        environment.run_step(layout, step, steps[index:])


def test_a_step_runs_again_when_its_inputs_change_and_takes_the_later_ones_along(
    layout, tmp_path, monkeypatch
):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    done = []
    source, steps = make_steps(tmp_path, done)
    run_all(layout, steps)
    run_all(layout, steps)
    assert done == ["first", "second", "third"]
    source.write_text("two")
    run_all(layout, steps)
    assert done[3:] == ["second", "third"]


def test_a_step_that_fails_is_not_stamped(layout):
    def fail(layout):
        raise Missing("no network")

    step = environment.Step("fails", fail, ())
    with pytest.raises(Missing, match="no network"):
        environment.run_step(layout, step, [step])
    assert not environment.stamp_file(layout, step).exists()


def test_a_failing_command_shows_its_end_and_names_its_log(layout):
    with pytest.raises(Missing, match="could not") as caught:
        environment.run(layout, "pip", ["sh", "-c", "echo reason; exit 1"], "pip could not")
    assert "reason" in str(caught.value) and str(layout.logs / "pip.log") in str(caught.value)


def test_what_another_python_built_is_not_built_upon(layout, monkeypatch):
    (layout.overlay / "build").mkdir(parents=True)
    monkeypatch.setattr(environment, "colcon", lambda *_: None)
    environment.build_overlay(layout)
    assert not layout.overlay.exists()


def test_two_set_ups_do_not_run_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "LOCK_SECONDS", 0.1)
    code = (
        "import sys; from pathlib import Path; import standalone.environment as e; e.LOCK_SECONDS = 0.1\n"
        "with e.locked(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with environment.locked(tmp_path / "lock"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "Another set-up has held" in done.stderr
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_a_file_is_replaced_as_a_whole_and_only_if_it_says_something_else(tmp_path):
    path = tmp_path / "env.sh"
    environment.write_if_changed(path, "one")
    before = path.stat().st_ino
    environment.write_if_changed(path, "one")
    assert path.stat().st_ino == before
    with path.open() as reader:
        environment.write_if_changed(path, "two")
        assert reader.read() == "one" and path.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["env.sh"]


def test_env_sh_can_be_sourced_by_any_shell_and_keeps_the_callers_choices(layout):
    layout.env_file.write_text(layout.environment_script())
    script = f'set -eu; . "{layout.env_file}"; echo "$ROS_DISTRO $PATH $ROS_AUTOMATIC_DISCOVERY_RANGE"'
    env = {"PATH": "/usr/bin:/bin", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    shown = subprocess.run(
        ["sh", "-c", script], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert shown[0] == "kilted" and shown[2] == "SUBNET"
    assert shown[1].startswith(str(layout.package)) and shown[1].endswith(":/usr/bin:/bin")


@pytest.mark.parametrize("name", [*DISTROS, "build", "robot", "test"])
def test_every_requirement_is_pinned(name):
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted and all("==" in line for line in wanted)


def test_the_demos_environment_needs_neither_torch_nor_open3d():
    text = " ".join((REQUIREMENTS / f"{name}.txt").read_text() for name in ("robot", "build", *DISTROS))
    assert not any(name in text for name in ("torch", "open3d", "moderngl"))


def test_the_set_up_runs_in_the_environment_it_made():
    if "AMENT_PREFIX_PATH" not in os.environ:
        pytest.skip("not in the standalone environment")
    from tf2_msgs.msg import TFMessage
    from vision_msgs.msg import Detection3D

    assert Detection3D.get_fields_and_field_types() == {
        "header": "std_msgs/Header",
        "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
        "bbox": "vision_msgs/BoundingBox3D",
        "id": "string",
    }
    assert TFMessage.get_fields_and_field_types() == {
        "transforms": "sequence<geometry_msgs/TransformStamped>"
    }


@pytest.mark.parametrize("name", ["my robot", "Pr\u00fcfstand", "it's"])
def test_a_path_that_cmake_cannot_hold_is_refused_at_once(name):
    with pytest.raises(Missing, match="wanted a path of ASCII characters without blanks"):
        prerequisites.check_place(Path("/home/me") / name / "pose_kd_ros")
    prerequisites.check_place(ROOT)


def test_a_moved_checkout_says_what_to_do(tmp_path):
    state = tmp_path / ".state" / "kilted"
    state.mkdir(parents=True)
    (state / "env.sh").write_text("export PATH=/old/place/pose_kd_ros/.state/kilted/venv/bin:$PATH\n")
    (tmp_path / "standalone").mkdir()
    runner = tmp_path / "standalone" / "run"
    runner.write_text((ROOT / "standalone" / "run").read_text())
    runner.chmod(0o755)
    done = subprocess.run([runner, "pose_node"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "moved: run standalone/setup.sh --distro kilted again" in done.stderr
