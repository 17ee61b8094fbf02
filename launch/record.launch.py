# SPDX-License-Identifier: Apache-2.0
"""Records what an evaluation needs: images, their CameraInfo, TF and, if they are published, poses.

ros2 launch pose_kd_ros record.launch.py out:=desk image:=/camera/image_raw camera_info:=/camera/camera_info
"""

import os
import tempfile

import yaml
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

ARGUMENTS = {  # name: (default, description)
    "out": ("recording", "Folder of the bag; it must not be there yet."),
    "image": ("image", "Topic of the images, as it is to be recorded (Image or CompressedImage)."),
    "camera_info": ("camera_info", "Topic of the images' CameraInfo."),
    "topics": ("", "Further topics, separated by spaces: depth images, poses, detections."),
    "storage": ("mcap", "mcap or sqlite3."),
    "cache_mb": ("256", "Memory for messages on their way to the disk."),
}
SENSOR = {"reliability": "best_effort", "durability": "volatile", "history": "keep_last", "depth": 50}
LATCHED = {"reliability": "reliable", "durability": "transient_local", "history": "keep_last", "depth": 100}


def recorder(context):
    """The process, once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    streams = [given["image"], given["camera_info"]]
    topics = [*streams, "/tf", "/tf_static", *given["topics"].split()]
    # Best effort hears every publisher; a reliable request would miss the cameras that do not offer it.
    profiles = dict.fromkeys((absolute(name) for name in streams), SENSOR) | {"/tf_static": LATCHED}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False, encoding="utf-8") as file:
        yaml.safe_dump({name: dict(profile) for name, profile in profiles.items()}, file)
    command = ["ros2", "bag", "record", "--output", given["out"], "--storage", given["storage"]]
    command += ["--max-cache-size", str(int(float(given["cache_mb"]) * 1e6))]
    command += ["--qos-profile-overrides-path", file.name]
    command += [] if os.environ.get("ROS_DISTRO") == "humble" else ["--topics"]
    return [ExecuteProcess(cmd=[*command, *map(absolute, topics)], output="screen")]


def absolute(topic):
    return topic if topic.startswith("/") else f"/{topic}"


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=recorder)])
