# SPDX-License-Identifier: Apache-2.0
import importlib.util
import threading
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")
from pose_kd_ros.nodes.parameters import Settings

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "pose.launch.py"


def test_the_parameters_file_states_the_defaults():
    given = yaml.safe_load((ROOT / "config" / "pose.yaml").read_text())["/**/pose_node"]["ros__parameters"]
    defaults = vars(Settings())
    assert given == {name: defaults[name] for name in given}
    of_the_launch_file = {"autostart", "bundle", "image_transport", "tf_prefix"}
    assert set(defaults) - set(given) == of_the_launch_file


def test_the_rviz_view_shows_what_the_node_publishes():
    view = yaml.safe_load((ROOT / "rviz" / "pose.rviz").read_text())["Visualization Manager"]
    topics = [display["Topic"]["Value"] for display in view["Displays"] if "Topic" in display]
    assert topics == ["/pose_node/markers", "/pose_node/overlay"]


def module(path):
    if path == LAUNCH_FILE:
        pytest.importorskip("launch_ros", reason="launch is not installed")
    spec = importlib.util.spec_from_file_location("tried", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def description(path=LAUNCH_FILE):
    return module(path).generate_launch_description()


def test_the_recorder_asks_for_what_an_evaluation_needs(monkeypatch):
    path = ROOT / "launch" / "record.launch.py"
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    pytest.importorskip("launch.actions", reason="launch is not installed")
    from launch import LaunchContext

    context = LaunchContext()
    declared = description(path).get_launch_arguments()
    for argument in declared:
        argument.execute(context)
    context.launch_configurations.update({"image": "/eye", "out": "desk", "topics": "poses"})
    (process,) = module(path).recorder(context)
    words = ["".join(part.text for part in word) for word in process.cmd]
    assert words[:7] == ["ros2", "bag", "record", "--output", "desk", "--storage", "mcap"]
    assert words[words.index("--topics") + 1 :] == ["/eye", "/camera_info", "/tf", "/tf_static", "/poses"]
    profiles = Path(words[words.index("--qos-profile-overrides-path") + 1])
    asked = yaml.safe_load(profiles.read_text())
    profiles.unlink()
    assert asked["/eye"]["reliability"] == "best_effort"
    assert asked["/tf_static"]["durability"] == "transient_local"
    assert all(a.default_value is not None and a.description for a in declared)


def test_every_launch_argument_has_a_default_and_a_description():
    declared = {argument.name: argument for argument in description().get_launch_arguments()}
    wanted = {
        "bundle",
        "image",
        "camera_info",
        "namespace",
        "use_sim_time",
        "params_file",
        "autostart",
        "log_level",
    }
    assert wanted <= set(declared)
    assert all(a.default_value is not None and a.description for a in declared.values())


def test_the_launched_node_is_where_it_was_asked_to_be(ros):
    """Needs the package to be installed, as colcon test has it."""
    pytest.importorskip("launch.actions", reason="launch is not installed")
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    import launch

    if not installed():
        pytest.skip("pose_kd_ros is not installed")
    values = {"namespace": "robot", "autostart": "false", "image": "/eye"}
    service = launch.LaunchService()
    source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
    service.include_launch_description(
        launch.LaunchDescription([IncludeLaunchDescription(source, launch_arguments=values.items())])
    )
    listener, found = ros.node("listener"), []

    def look():
        wanted = "/robot/pose_node/get_state"
        found.append(ros.until(lambda: wanted in dict(listener.get_service_names_and_types()), 60))
        service.shutdown()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    assert service.run() == 0
    watcher.join(10)
    assert found == [True]


def installed():
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        return bool(get_package_prefix("pose_kd_ros"))
    except PackageNotFoundError:
        return False
