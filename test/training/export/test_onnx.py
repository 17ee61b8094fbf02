# SPDX-License-Identifier: Apache-2.0
"""Exported files run on old versions of the engine."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

pytest.importorskip("torch")

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.bundle.store import golden_input
from pose_kd_ros.pipeline.network import OnnxNetwork
from training.export.onnx import IR, OPSET, with_old_opset

BUNDLES = Path(__file__).resolve().parents[3] / "bundles"


@pytest.mark.parametrize("name", ["cube", "lmo", "ycb"])
def test_what_the_families_export_needs_opset_17_only(tmp_path, name):
    path = tmp_path / "network.onnx"
    shutil.copyfile(BUNDLES / name / "network.onnx", path)
    image = golden_input(3, 128, 192)
    before = OnnxNetwork(path, threads=1)(image)
    assert with_old_opset(path)
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR)
    after = OnnxNetwork(path, threads=1)(image)
    for output, values in before.items():
        np.testing.assert_allclose(after[output], values, atol=1e-5)


def test_an_operator_that_is_newer_stays_in_its_opset(tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[4] image) => (float[4] y) { y = Gelu(image) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "a.onnx")
    assert not with_old_opset(tmp_path / "a.onnx")
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == 20


def test_an_engine_that_is_too_old_is_told_so(tmp_path):
    model = onnx.load(BUNDLES / "cube" / "network.onnx")
    model.ir_version = 99
    path = tmp_path / "network.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"older than the network: pip install --upgrade onnxruntime"):
        OnnxNetwork(path)
