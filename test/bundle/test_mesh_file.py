# SPDX-License-Identifier: Apache-2.0
"""A bundle may hold meshes of its objects: listed, hashed, small, and of these objects."""

import dataclasses

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import BundleError, mesh_file
from pose_kd_ros.bundle.store import MOST_FACES, open_bundle, write_bundle
from pose_kd_ros.core.mesh import Mesh
from test.bundle.test_bundle import bundle  # noqa: F401


def arrays(mesh, **changes):
    return {"vertices": mesh.vertices, "triangles": mesh.triangles, "sharp": mesh.sharp, **changes}


def with_file(bundle, tmp_path, **content):  # noqa: F811
    """The bundle with a mesh file of this content."""
    path = tmp_path / mesh_file(1)
    np.savez(path, **content)
    files = {name: bundle.folder / name for name in bundle.manifest.files} | {mesh_file(1): path}
    return write_bundle(tmp_path / "with", dataclasses.replace(bundle.manifest, files={**files}), files)


def test_a_mesh_is_read_as_it_was_written(bundle, tmp_path):  # noqa: F811
    box = Mesh.of_box(bundle.objects[0])
    read = with_file(bundle, tmp_path, **arrays(box)).mesh(1)
    assert bundle.mesh(1) is None
    for name in ("vertices", "triangles", "sharp"):
        np.testing.assert_array_equal(getattr(read, name), getattr(box, name))


def test_a_mesh_that_is_not_listed_or_was_exchanged_is_refused(bundle, tmp_path):  # noqa: F811
    np.savez(bundle.folder / mesh_file(1), **arrays(Mesh.of_box(bundle.objects[0])))
    with pytest.raises(BundleError, match="wanted only the files"):
        open_bundle(bundle.folder)
    (bundle.folder / mesh_file(1)).unlink()
    listed = with_file(bundle, tmp_path, **arrays(Mesh.of_box(bundle.objects[0])))
    np.savez(listed.folder / mesh_file(1), **arrays(Mesh.of_box(bundle.objects[0]).scaled(0.9)))
    with pytest.raises(BundleError, match="damaged or exchanged"):
        open_bundle(listed.folder)


def test_a_mesh_that_is_none_is_refused(bundle, tmp_path):  # noqa: F811
    box = Mesh.of_box(bundle.objects[0])
    many = np.resize(box.triangles, (MOST_FACES + 1, 3))
    for content, text in (
        ({"vertices": box.vertices}, "wanted vertices, triangles and sharp, found"),
        (arrays(box, vertices=box.vertices * np.nan), "vertices: wanted finite"),
        (arrays(box, vertices=np.array(0.0)), "vertices: wanted at most"),
        (arrays(box, triangles=box.triangles + 1), "triangles: wanted indices below 8"),
        (arrays(box, triangles=many), "wanted at most 4000 triangles in the object's box"),
        (arrays(box, vertices=np.zeros((13000, 3))), "vertices: wanted at most 12000 rows"),
        (arrays(box.scaled(1.1)), "triangles in the object's box, found 12 triangles, 4.2 mm beyond it"),
        (arrays(box.scaled(0.001)), "fills the box of 84 x 84 x 84 mm, found 0.084 x 0.084 x 0.084"),
        (arrays(box, vertices=box.vertices * [1, 1, 0.4]), "fills the box of 84 .*, found 84 x 84 x 33.6"),
        (arrays(box, sharp=np.array([[0, 1]], object)), "not a plain npz"),
    ):
        with pytest.raises(BundleError, match=rf"mesh_000001\.npz: .*{text}"):
            with_file(bundle, tmp_path, **content).mesh(1)
