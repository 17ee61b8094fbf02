# SPDX-License-Identifier: Apache-2.0
"""A bundle whose network is written by hand: a red or a green disc is a ball, whose keypoints it votes for.

The ball's pose is known: a disc of radius r pixels about (u, v) is a ball of RADIUS metres at depth
fx * RADIUS / r, turned by TURN as seen along its ray. Nothing else in a picture makes it answer.
"""

from pathlib import Path

import numpy as np
import onnx
from scipy.spatial import cKDTree

from pose_kd_ros.bundle.manifest import (
    SCHEMA,
    DecodeSpec,
    GoldenSpec,
    InputSpec,
    Manifest,
    NetworkSpec,
    ObjectSpec,
    PeopleSpec,
    TrainingSpec,
    surface_file,
)
from pose_kd_ros.bundle.store import golden_input, open_bundle, write_bundle
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import from_rotation_vector
from pose_kd_ros.core.surface import BITS, SurfaceCodes, balanced_order, bits_of
from pose_kd_ros.pipeline.network import OnnxNetwork

RADIUS = 0.05
TURN = from_rotation_vector([0.3, -0.4, 0.2])
KEYPOINTS = box_corners((0, 0, 0), (2 * RADIUS,) * 3)
STRIDE = 8

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
discs (float[1, 3, H, W] image) => (float[1, N, 2] scores, float[1, N, 2, 8, 2] offsets)
<float half = {0.5}, int64[4] from_ = {0, 0, 0, 0}, int64[4] to_ = {1, 2, 100000, 100000},
 int64[2] plane = {2, 3}, float tiny = {0.000001}, float pi = {3.14159265}, float zero = {0.0}, float one =
 {1.0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4}, int64[4] as_u = {1, 1, 1, -1}, int64[4]
 as_v = {1, 1, -1, 1}, int64[3] flat = {1, 2, -1}, int64[5] as_cells = {1, -1, 1, 1, 2}, int64[5] as_votes =
 {1, 1, 2, 8, 2}, int64[4] as_center = {1, 2, 1, 2}, int64[4] as_radius = {1, 2, 1, 1}, float most = {0.95}>
{
    colors = Slice(image, from_, to_)
    lit = Greater(colors, half)
    mask = Cast<to = 1>(lit)
    area_ = ReduceSum<keepdims = 1>(mask, plane)
    area = Add(area_, tiny)
    shape = Shape(image)
    h_ = Slice(shape, two, three)
    w_ = Slice(shape, three, four)
    h_f = Cast<to = 1>(h_)
    w_f = Cast<to = 1>(w_)
    h = Squeeze(h_f)
    w = Squeeze(w_f)
    u_row = Range(zero, w, one)
    v_row = Range(zero, h, one)
    u = Reshape(u_row, as_u)
    v = Reshape(v_row, as_v)
    mu = Mul(mask, u)
    mv = Mul(mask, v)
    su = ReduceSum<keepdims = 1>(mu, plane)
    sv = ReduceSum<keepdims = 1>(mv, plane)
    cu = Div(su, area)
    cv = Div(sv, area)
    center_ = Concat<axis = 3>(cu, cv)
    center = Reshape(center_, as_center)
    rr = Div(area, pi)
    radius_ = Sqrt(rr)
    radius = Reshape(radius_, as_radius)
    spread = Mul(radius, pattern)
    votes_ = Add(center, spread)
    votes = Reshape(votes_, as_votes)
    u_zero = Mul(v, zero)
    v_zero = Mul(u, zero)
    u_grid = Add(u, u_zero)
    v_grid = Add(v, v_zero)
    u_cell = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(u_grid)
    v_cell = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(v_grid)
    cell_ = Concat<axis = 1>(u_cell, v_cell)
    cell_last = Transpose<perm = [0, 2, 3, 1]>(cell_)
    cells = Reshape(cell_last, as_cells)
    offsets = Sub(votes, cells)
    share = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(mask)
    share_flat = Reshape(share, flat)
    share_last = Transpose<perm = [0, 2, 1]>(share_flat)
    scores = Mul(share_last, most)
}
"""


DENSE_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
discs (float[1, 3, H, W] image) => (float[1, 2, h, w] mask, float[1, 16, h, w] codes)
<float half = {0.5}, int64[4] from_ = {0, 0, 0, 0}, int64[4] to_ = {1, 2, 100000, 100000},
 int64[4] all = {0, 1, 2, 3}, float tiny = {0.000001}, float pi = {3.14159265}, float zero = {0.0},
 float one = {1.0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
 int64[4] as_u = {1, 1, 1, -1}, int64[4] as_v = {1, 1, -1, 1}, int64[1] color_axis = {1},
 float middle = {31.5}, float last = {63.0}, int64 row = {64}, float most = {0.95}, int64[1] color = {1}>
{
    colors = Slice(image, from_, to_)
    lit = Greater(colors, half)
    each = Cast<to = 1>(lit)
    disc = ReduceMax<axes = [1], keepdims = 1>(each)
    area_ = ReduceSum<keepdims = 1>(disc, all)
    area = Add(area_, tiny)
    shape = Shape(image)
    h_ = Slice(shape, two, three)
    w_ = Slice(shape, three, four)
    h_f = Cast<to = 1>(h_)
    w_f = Cast<to = 1>(w_)
    hh = Squeeze(h_f)
    ww = Squeeze(w_f)
    u_row = Range(zero, ww, one)
    v_row = Range(zero, hh, one)
    u = Reshape(u_row, as_u)
    v = Reshape(v_row, as_v)
    mu = Mul(disc, u)
    mv = Mul(disc, v)
    su = ReduceSum<keepdims = 1>(mu, all)
    sv = ReduceSum<keepdims = 1>(mv, all)
    cu = Div(su, area)
    cv = Div(sv, area)
    rr = Div(area, pi)
    radius = Sqrt(rr)
    u_zero = Mul(v, zero)
    v_zero = Mul(u, zero)
    u_grid = Add(u, u_zero)
    v_grid = Add(v, v_zero)
    u_pixel = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(u_grid)
    v_pixel = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(v_grid)
    du = Sub(u_pixel, cu)
    dv = Sub(v_pixel, cv)
    ru = Div(du, radius)
    rv = Div(dv, radius)
    pu = Mul(ru, middle)
    pv = Mul(rv, middle)
    qu = Add(pu, middle)
    qv = Add(pv, middle)
    cut_u = Clip(qu, zero, last)
    cut_v = Clip(qv, zero, last)
    near_u = Round(cut_u)
    near_v = Round(cut_v)
    column = Cast<to = 7>(near_u)
    line = Cast<to = 7>(near_v)
    start = Mul(line, row)
    place_ = Add(start, column)
    place = Squeeze(place_, color_axis)
    looked_up = Gather<axis = 0>(table, place)
    codes = Transpose<perm = [0, 3, 1, 2]>(looked_up)
    share = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(each)
    mask = Mul(share, most)
}
"""


HEATMAP_MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
discs (float[1, 3, H, W] image) => (float[1, CLASSES, POINTS, h, w] heatmaps)
<float half = {0.5}, int64[4] from_ = {0, 0, 0, 0}, int64[4] to_ = {1, CLASSES, 100000, 100000},
 int64[2] plane = {2, 3}, float tiny = {0.000001}, float pi = {3.14159265}, float zero = {0.0},
 float one = {1.0}, float first = {1.5}, float stride = {4.0}, float width = {-128.0}, int64[1] two = {2},
 int64[1] three = {3}, int64[1] four = {4}, int64[4] as_u = {1, 1, 1, -1}, int64[4] as_v = {1, 1, -1, 1},
 int64[5] as_maps_u = {1, 1, 1, 1, -1}, int64[5] as_maps_v = {1, 1, 1, -1, 1},
 int64[5] as_disc = {1, -1, 1, 1, 1}>
{
    colors = Slice(image, from_, to_)
    lit = Greater(colors, half)
    mask = Cast<to = 1>(lit)
    area_ = ReduceSum<keepdims = 1>(mask, plane)
    area = Add(area_, tiny)
    shape = Shape(image)
    h_ = Slice(shape, two, three)
    w_ = Slice(shape, three, four)
    h_f = Cast<to = 1>(h_)
    w_f = Cast<to = 1>(w_)
    hh = Squeeze(h_f)
    ww = Squeeze(w_f)
    u_row = Range(zero, ww, one)
    v_row = Range(zero, hh, one)
    u = Reshape(u_row, as_u)
    v = Reshape(v_row, as_v)
    mu = Mul(mask, u)
    mv = Mul(mask, v)
    su = ReduceSum<keepdims = 1>(mu, plane)
    sv = ReduceSum<keepdims = 1>(mv, plane)
    cu_ = Div(su, area)
    cv_ = Div(sv, area)
    rr = Div(area, pi)
    radius_ = Sqrt(rr)
    cu = Reshape(cu_, as_disc)
    cv = Reshape(cv_, as_disc)
    radius = Reshape(radius_, as_disc)
    spread_u = Mul(radius, pattern_u)
    spread_v = Mul(radius, pattern_v)
    at_u = Add(cu, spread_u)
    at_v = Add(cv, spread_v)
    map_u_ = Range(first, ww, stride)
    map_v_ = Range(first, hh, stride)
    map_u = Reshape(map_u_, as_maps_u)
    map_v = Reshape(map_v_, as_maps_v)
    off_u = Sub(map_u, at_u)
    off_v = Sub(map_v, at_v)
    uu = Mul(off_u, off_u)
    vv = Mul(off_v, off_v)
    far = Add(uu, vv)
    power = Div(far, width)
    peaks = Exp(power)
    shown_ = Clip(area_, zero, one)
    shown = Reshape(shown_, as_disc)
    heatmaps = Mul(peaks, shown)
}
"""
PEOPLE = PeopleSpec(["nose", "left_hand", "right_hand"], [[0, 1], [0, 2]], [[1, 2]])
BODY = np.array([[0.0, 0.0], [0.5, 0.25], [-0.5, 0.25]])  # from the disc's centre, in disc radii


def ball_surface() -> SurfaceCodes:
    points = np.random.default_rng(0).standard_normal((1 << BITS, 3))
    points *= RADIUS / np.linalg.norm(points, axis=1, keepdims=True)
    return SurfaceCodes(points[balanced_order(points)])


def code_table(surface: SurfaceCodes, depth: float = 0.6) -> np.ndarray:
    """Code probabilities (64 * 64, 16) of the ball's surface over a square about its disc, row by row."""
    v, u = np.mgrid[-1:1:64j, -1:1:64j] * RADIUS / depth
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    along = rays[:, 2] * depth
    reach = np.sqrt(np.maximum(along**2 - depth**2 + RADIUS**2, 0))
    points = ((along - reach)[:, None] * rays - (0, 0, depth)) @ TURN
    return np.where(bits_of(cKDTree(surface.points).query(points)[1]), 0.95, 0.05)


def pattern() -> np.ndarray:
    """Where the keypoints project (8, 2), from the disc's centre, in disc radii; for a ball 0.6 m away."""
    depth = 0.6
    seen = KEYPOINTS @ TURN.T + (0, 0, depth)
    return seen[:, :2] / seen[:, 2:] * depth / RADIUS


def write_network(path: Path) -> None:
    model = onnx.parser.parse_model(MODEL)
    values = pattern().astype(np.float32).reshape(1, 1, 8, 2)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "pattern"))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_dense_network(path: Path, surface: SurfaceCodes) -> None:
    model = onnx.parser.parse_model(DENSE_MODEL)
    values = code_table(surface).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "table"))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_heatmap_network(path: Path, classes: int, places: np.ndarray) -> None:
    """``places`` (K, 2) of the keypoints from the disc's centre, in disc radii; classes: 1, red, or 2."""
    text = HEATMAP_MODEL.replace("CLASSES", str(classes)).replace("POINTS", str(len(places)))
    model = onnx.parser.parse_model(text)
    for name, values in zip(("pattern_u", "pattern_v"), places.T.astype(np.float32)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.reshape(1, 1, -1, 1, 1), name))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def ball(number: int, name: str) -> ObjectSpec:
    return ObjectSpec(
        id=number,
        class_name=name,
        diameter=2 * RADIUS * 3**0.5,
        box_center=[0.0] * 3,
        box_size=[2 * RADIUS] * 3,
        keypoints=KEYPOINTS.tolist(),
        symmetries_discrete=[],
        symmetries_continuous=[],
        reference=np.eye(3).tolist(),
        origin="the centre",
    )


def write_disc_bundle(folder: Path, family: str = "keypoint", locator: Path | None = None) -> Path:
    """Write the bundle of red_ball (1) and green_ball (2), of the keypoint, dense or heatmap family, or of
    "people", whose bodies are red discs; return its folder. locator: a keypoint bundle to hold."""
    sources = folder.parent / f"{folder.name}_sources"
    sources.mkdir(parents=True)
    files = {name: sources / name for name in ("network.onnx", "golden.npz")}
    if family == "dense":
        surface, outputs, stride = ball_surface(), ["mask", "codes"], 2
        write_dense_network(files["network.onnx"], surface)
        for number in (1, 2):
            path = sources / surface_file(number)
            np.savez(path, points=surface.points)
            files[path.name] = path
    elif family in ("heatmap", "people"):
        outputs, stride = ["heatmaps"], 4
        classes, places = (1, BODY) if family == "people" else (2, pattern())
        write_heatmap_network(files["network.onnx"], classes, places)
    else:
        outputs, stride = ["scores", "offsets"], STRIDE
        write_network(files["network.onnx"])
    golden = OnnxNetwork(files["network.onnx"], threads=1)(golden_input(1, 64, 64))
    np.savez(files["golden.npz"], **golden)
    people = family == "people"
    manifest = Manifest(
        SCHEMA,
        "discs",
        "heatmap" if people else family,
        InputSpec(128, 320, STRIDE, 1.5, "rgb", [0.0] * 3, [1.0] * 3, 0.75 if people else 1.0),
        NetworkSpec("network.onnx", outputs, [stride], 16, 0.001),
        [] if people else [ball(1, "red_ball"), ball(2, "green_ball")],
        DecodeSpec(0.3, 0.3, []),
        GoldenSpec("golden.npz", 1, 64, 64, 1e-3),
        TrainingSpec("by hand", "none", "none", 0, 0, "none", "none", "none"),
        dict.fromkeys(files, ""),
        PEOPLE if people else None,
    )
    return write_bundle(folder, manifest, files, open_bundle(locator) if locator else None).folder
