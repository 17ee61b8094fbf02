# SPDX-License-Identifier: Apache-2.0
"""Where a bundle is looked for by its name."""

from pathlib import Path

import pytest

from pose_kd_ros.bundle.find import SHARE, find_bundle
from pose_kd_ros.bundle.manifest import BundleError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prefixes(tmp_path, monkeypatch):
    """Two installations that both have a bundle "mine", and the second one a "cube"."""
    for prefix, names in (("first", ["mine"]), ("second", ["mine", "cube"])):
        for name in names:
            folder = tmp_path / prefix / SHARE / "bundles" / name
            folder.mkdir(parents=True)
            (folder / "manifest.json").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    return tmp_path


def test_the_source_tree_comes_first_then_the_prefixes_in_their_order(prefixes):
    assert find_bundle("cube") == ROOT / "bundles" / "cube"
    assert find_bundle("mine") == prefixes / "first" / SHARE / "bundles" / "mine"


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_bundle(str(tmp_path)) == find_bundle("~") == tmp_path


@pytest.mark.parametrize("name", ["", "nothing", "../bundles/cube"])
def test_an_unknown_name_lists_the_installed_ones(prefixes, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=f"bundle: wanted a folder or .* cube, .*mine,.* found '{name}'"):
        find_bundle(name)
