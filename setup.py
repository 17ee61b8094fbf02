# SPDX-License-Identifier: Apache-2.0
"""Installs what runs on the robot: pose_kd_ros/ and its data. training/ and standalone/ stay behind."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "pose_kd_ros"
DATA_FOLDERS = ("launch", "config", "rviz", "bundles")


def data_files():
    """Lists (share folder, files) for every folder below DATA_FOLDERS; setuptools does not recurse."""
    found = [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ]
    for top in DATA_FOLDERS:
        folders = [Path(top), *(path for path in Path(top).rglob("*") if path.is_dir())]
        for folder in sorted(folders):
            files = sorted(str(path) for path in folder.glob("*") if path.is_file())
            if files:
                found.append((f"share/{NAME}/{folder}", files))
    return found


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.evaluation.reports": ["templates/*.html"]},
    data_files=data_files(),
    install_requires=["setuptools"],
    zip_safe=False,
    maintainer="Seed fe0e29be maintainers",
    maintainer_email="maintainers@users.noreply.h-seed-fe0e29be.example",
    description="6D object poses on TF from camera frames, by compact networks distilled from big ones.",
    license="Apache-2.0",
    # colcon test runs pytest only when it finds it here; with tests_require it silently runs nothing.
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "pose_node = pose_kd_ros.nodes.entry:pose_node",
            "overlay_node = pose_kd_ros.nodes.entry:overlay_node",
            "doctor = pose_kd_ros.nodes.entry:doctor",
            "evaluate = pose_kd_ros.evaluation.__main__:main",
            "play = pose_kd_ros.nodes.play:main",
            "evaluate_live = pose_kd_ros.nodes.evaluate_live:main",
        ],
    },
)
