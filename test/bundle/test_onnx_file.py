# SPDX-License-Identifier: Apache-2.0
"""Weights outside an ONNX file are seen wherever they may be referred to."""

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
import onnx.numpy_helper
import onnx.parser
from onnx.external_data_helper import set_external_data

from pose_kd_ros.bundle.manifest import BundleError
from pose_kd_ros.bundle.onnx_file import has_external_data
from pose_kd_ros.pipeline.network import OnnxNetwork


def tensor(external):
    made = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    if external:
        set_external_data(made, location="../../elsewhere.bin", offset=0, length=16)
        made.ClearField("raw_data")
        made.data_location = onnx.TensorProto.EXTERNAL
    return made


def model(external, place):
    found = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4] image) => (float[4] y) { y = Add(image, w) }'
    )
    if place == "initializer":
        found.graph.initializer.append(tensor(external))
    elif place == "constant":
        found.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor(external)))
    else:
        inner = onnx.helper.make_graph([], "inner", [], [], [tensor(external)])
        found.graph.initializer.append(tensor(False))
        found.graph.node.append(
            onnx.helper.make_node("If", ["y"], ["z"], then_branch=inner, else_branch=inner)
        )
    return found


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_external_data_is_found_wherever_it_is(place):
    assert has_external_data(model(True, place).SerializeToString())
    assert not has_external_data(model(False, place).SerializeToString())


def test_a_network_with_external_data_is_refused(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(model(True, "initializer").SerializeToString())
    (tmp_path.parent / "elsewhere.bin").write_bytes(np.ones(4, np.float32).tobytes())
    with pytest.raises(
        BundleError, match=r"network\.onnx: wanted all weights in the file, found external data"
    ):
        OnnxNetwork(path)
    path.write_bytes(model(False, "initializer").SerializeToString())
    assert OnnxNetwork(path)(np.ones(4, np.float32))["y"].tolist() == [2.0] * 4


@pytest.mark.parametrize("data", [b"not a network, but a file", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x03\x0b"])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "network.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"network\.onnx: onnxruntime cannot load it"):
        OnnxNetwork(tmp_path / "network.onnx")
