# SPDX-License-Identifier: Apache-2.0
"""A BOP data set of red discs, which the bundle of discs takes for balls, with depth and meshes."""

import json

import cv2
import numpy as np

from test.nodes.disc_bundle import TURN
from test.support.recordings import FOCAL, HEIGHT, RADIUS, WIDTH, ball_pose, disc

K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def write_discs(root, places, true_scale=1.0):
    """An image for each of ``places`` (u, v, radius), in test/000001; true depths are ``true_scale`` times
    what the discs look like."""
    scene = root / "test" / "000001"
    for name in ("rgb", "depth"):
        (scene / name).mkdir(parents=True)
    cameras, truths, infos = {}, {}, {}
    for i, (u, v, radius) in enumerate(places):
        pose = ball_pose(u, v, radius, TURN)
        pose[:3, 3] *= true_scale
        cv2.imwrite(str(scene / "rgb" / f"{i:06d}.png"), disc(u, v, radius))
        depth = np.round(ball_depth(pose[:3, 3]) * 1e4).astype(np.uint16)
        cv2.imwrite(str(scene / "depth" / f"{i:06d}.png"), depth)
        cameras[str(i)] = {"cam_K": K.ravel().tolist(), "depth_scale": 0.1}
        t = (pose[:3, 3] * 1e3).tolist()
        truths[str(i)] = [{"cam_R_m2c": pose[:3, :3].ravel().tolist(), "cam_t_m2c": t, "obj_id": 1}]
        box = [u - radius, v - radius, 2 * radius, 2 * radius]
        infos[str(i)] = [{"bbox_obj": box, "bbox_visib": box, "visib_fract": 1.0}]
    for name, content in (("camera", cameras), ("gt", truths), ("gt_info", infos)):
        (scene / f"scene_{name}.json").write_text(json.dumps(content))
    write_models(root / "models")
    return root


def ball_depth(center):
    """Depth (H, W) of the ball's front, metres, 0 beside it."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    ray = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones(u.shape)], -1)
    a, b, c = (ray**2).sum(-1), ray @ center, center @ center - RADIUS**2
    inside = b**2 - a * c
    return np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)


def write_models(folder):
    """Balls 1 and 2 of 50 mm; their diameter is their box's, as in the bundle."""
    import trimesh

    folder.mkdir()
    box = {f"min_{a}": -1e3 * RADIUS for a in "xyz"} | {f"size_{a}": 2e3 * RADIUS for a in "xyz"}
    info = {str(i): {"diameter": 2e3 * RADIUS * 3**0.5, **box} for i in (1, 2)}
    (folder / "models_info.json").write_text(json.dumps(info))
    for i in (1, 2):
        trimesh.creation.icosphere(3, 1e3 * RADIUS).export(folder / f"obj_{i:06d}.ply")
