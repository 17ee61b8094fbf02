# SPDX-License-Identifier: Apache-2.0
"""Write a network as an ONNX file, clean it, store its weights in 16 bits, and compare it with torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.shape_inference
import torch
from torch import nn

from pose_kd_ros.bundle.store import golden_input
from pose_kd_ros.pipeline.network import OnnxNetwork

# Largest deviation between torch and ONNX Runtime: absolute for probabilities, pixels for offsets
PARITY = 2e-3
HALF_PARITY = 0.2  # with weights in 16 bits: a fifth of a pixel, while votes scatter by several pixels
OPSET, IR = 17, 8
NEW_DEFAULTS = {  # attributes of later opsets, and the values with which they have no effect
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("Cast", "saturate"): 1,
}
SMALL, HALF_RANGE = 256, 6e4  # smaller tensors stay in 32 bits, as do those with larger values


def write_onnx(network: nn.Module, path: Path, size: int, stride: int, outputs: list[str]) -> None:
    """Export with free height and width, each a multiple of ``stride``."""
    rows, columns = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("columns", min=1, max=64)
    size = max(size, 2 * stride)  # the exporter would take a side of one stride for a constant
    example = torch.zeros(
        1, 3, size, size + stride
    )  # different sides, or the exporter assumes that they are equal
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter deprecates parts of itself
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=["image"],
            output_names=outputs,
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=True,
            dynamic_shapes={"image": {2: stride * rows, 3: stride * columns}},
        )


def without_traces(path: Path) -> None:
    """Remove the exporter's notes from an ONNX file; they name files of the machine that trained it."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def with_old_opset(path: Path) -> bool:
    """Rewrite an ONNX file for opset 17 and IR 8, which ONNX Runtime 1.13 and later read; return whether all
    its operators exist there. The exporter writes opset 20, in which most operators only allow more types."""
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [a for a in node.attribute if _value(a) != NEW_DEFAULTS.get((node.op_type, a.name), ...)]
        del node.attribute[:]
        node.attribute.extend(kept)
    (opset,) = [one for one in model.opset_import if not one.domain]
    if opset.version <= OPSET:
        return True
    opset.version, model.ir_version = OPSET, IR
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    onnx.save(model, path)
    return True


def _value(attribute: onnx.AttributeProto) -> object:
    return onnx.helper.get_attribute_value(attribute)


def with_half_weights(path: Path) -> None:
    """Store the weights of an ONNX file as 16-bit floats, which the engine converts back once when it loads
    them: half the size, the same arithmetic, on weights that are rounded by at most 1 in 2048."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALL or np.abs(values).max() > HALF_RANGE:
            continue
        half = onnx.numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_half")
        casts.append(onnx.helper.make_node("Cast", [half.name], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(half)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)


def check_parity(
    network: nn.Module, engine: OnnxNetwork, height: int, width: int, allowed: float = PARITY
) -> float:
    """Return the largest deviation between torch and the exported network; raise ValueError if it is more
    than is allowed."""
    image = golden_input(1, height, width)
    with torch.no_grad():
        expected = [t.numpy() for t in network(torch.from_numpy(image))]
    found = engine(image)
    worst = max(float(np.abs(found[name] - e).max()) for name, e in zip(engine.outputs, expected))
    if not worst <= allowed:
        raise ValueError(
            f"exported network: wanted a deviation from torch of {allowed} at most at {width}x{height}, "
            f"found {worst:.3g}"
        )
    return worst
