# SPDX-License-Identifier: Apache-2.0
import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ET.parse(ROOT / "package.xml").getroot()
SETUP = (ROOT / "setup.py").read_text()
# What comes from a registry instead of the distribution is an optional import; the rest is Python's own.
MODULES = {
    "cv2": "python3-opencv",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "scipy": "python3-scipy",
    "tqdm": "python3-tqdm",
    "yaml": "python3-yaml",
}
MODULES |= {"transforms3d": "python3-transforms3d", "onnxruntime": None, "rosbags": None, "cv_bridge": None}
MODULES |= {"open3d": None}


def test_versions_are_equal_everywhere():
    version = PACKAGE.findtext("version")
    assert re.search(r'version="([^"]+)"', SETUP).group(1) == version
    assert re.search(r"^(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.rst").read_text(), re.M).group(1) == version


def test_names_and_licence_agree():
    name = PACKAGE.findtext("name")
    assert (ROOT / "resource" / name).is_file() and (ROOT / name).is_dir()
    assert PACKAGE.findtext("license") == "Apache-2.0" and 'license="Apache-2.0"' in SETUP
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_maintainer_is_one_in_both():
    maintainer = PACKAGE.find("maintainer")
    assert f'maintainer="{maintainer.text}"' in SETUP
    assert f'maintainer_email="{maintainer.get("email")}"' in SETUP


def test_colcon_test_is_told_about_pytest():
    assert 'extras_require={"test": ["pytest"]}' in SETUP


def imported_modules(folder):
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]


def test_every_import_of_the_robots_package_is_a_dependency():
    declared = {node.text for node in PACKAGE.iter("exec_depend")}
    used = set(imported_modules(ROOT / "pose_kd_ros")) - set(sys.stdlib_module_names) - {"pose_kd_ros"}
    wanted = {MODULES.get(module, module) for module in used} - {None}
    assert wanted <= declared, f"package.xml lacks {sorted(wanted - declared)}"


def test_every_entry_point_exists():
    for module in re.findall(r"= (pose_kd_ros\.[\w.]+):main", SETUP):
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert "def main(" in path.read_text(), f"{module} has no main"


def test_data_files_are_found_in_all_depths(tmp_path):
    (tmp_path / "bundles" / "cube" / "deep").mkdir(parents=True)
    (tmp_path / "bundles" / "cube" / "deep" / "a.npz").touch()
    code = f"import setuptools; setuptools.setup = lambda **k: print(k['data_files'])\n{SETUP}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "('share/pose_kd_ros/bundles/cube/deep', ['bundles/cube/deep/a.npz'])" in done.stdout


def test_import_rules_cover_every_room():
    rules = (ROOT / "pyproject.toml").read_text()
    rooms = [path.parent.name for path in (ROOT / "pose_kd_ros").glob("*/__init__.py")]
    assert all(f"pose_kd_ros.{room}" in rules for room in rooms)


@pytest.mark.parametrize("folder", ["standalone", "training"])
def test_what_stays_off_the_robot_is_not_installed(folder):
    assert f'"{folder}"' not in SETUP
    if folder == "standalone":
        assert (ROOT / folder / "COLCON_IGNORE").is_file()
