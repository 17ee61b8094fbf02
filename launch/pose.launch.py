# SPDX-License-Identifier: Apache-2.0
"""Starts the pose node, and the overlay node if asked to.

ros2 launch pose_kd_ros pose.launch.py bundle:=cube image:=/camera/image_raw camera_info:=/camera/camera_info
"""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = {  # name: (default, description)
    "bundle": ("cube", "Folder of a bundle, or the name of an installed one."),
    "image": (
        "image",
        "Topic of the images (sensor_msgs/Image; with image_transport compressed: its base name).",
    ),
    "camera_info": ("camera_info", "Topic of the images' CameraInfo."),
    "regions": (
        "regions",
        "Topic of boxes to look in (Detection2DArray), if the parameter use_regions is set.",
    ),
    "depth": ("depth", "Topic of depth images aligned to the images, if the parameter use_depth is set."),
    "image_transport": ("raw", "raw or compressed."),
    "namespace": ("", "Namespace of the nodes."),
    "use_sim_time": ("false", "Take the time from /clock."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("pose_kd_ros"), "config", "pose.yaml"]),
        "Parameters of the nodes.",
    ),
    "autostart": ("true", "Configure and activate at once; false leaves it to a lifecycle manager."),
    "tf_prefix": ("", "Put before the objects' frames: two nodes in one TF tree need two, such as left/."),
    "overlay": ("false", "Also draw the poses into the images, on pose_node/overlay."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
}


def argument(name):
    return LaunchConfiguration(name)


def typed(name, kind):
    return ParameterValue(LaunchConfiguration(name), value_type=kind)


def generate_launch_description():
    common = {
        "package": "pose_kd_ros",
        "namespace": argument("namespace"),
        "output": "screen",
        "ros_arguments": ["--log-level", argument("log_level")],
    }
    topics = [("image", argument("image")), ("camera_info", argument("camera_info"))]
    sim_time = {"use_sim_time": typed("use_sim_time", bool)}
    pose = Node(
        executable="pose_node",
        name="pose_node",
        parameters=[
            argument("params_file"),
            sim_time,
            {
                "bundle": typed("bundle", str),
                "image_transport": typed("image_transport", str),
                "autostart": typed("autostart", bool),
                "tf_prefix": typed("tf_prefix", str),
            },
        ],
        remappings=[
            *topics,
            ("image/compressed", [argument("image"), "/compressed"]),
            ("regions", argument("regions")),
            ("depth", argument("depth")),
        ],
        **common,
    )
    overlay = Node(
        executable="overlay_node",
        name="overlay_node",
        parameters=[argument("params_file"), sim_time],
        remappings=[
            *topics,
            *((name, f"pose_node/{name}") for name in ("detections", "keypoints", "objects")),
            ("~/overlay", "pose_node/overlay"),
        ],
        condition=IfCondition(argument("overlay")),
        **common,
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, pose, overlay])
