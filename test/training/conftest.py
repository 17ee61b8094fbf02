# SPDX-License-Identifier: Apache-2.0
"""A tiny BOP data set, drawn with OpenCV, that learns and loads like a real one."""

import json

import cv2
import numpy as np
import pytest

from pose_kd_ros.core.object_model import box_corners

ROTATION = [[1, 0, 0], [0, -0.6, -0.8], [0, 0.8, -0.6]]
K = [[500.0, 0, 128], [0, 500, 96], [0, 0, 1]]


def write_scene(folder, images=6, seed=0):
    """Grey cubes of 84 mm before noise, 256x192 px."""
    random = np.random.RandomState(seed)
    for part in ("rgb", "mask_visib"):
        (folder / part).mkdir(parents=True)
    camera, truth, info = {}, {}, {}
    for i in range(images):
        translation = np.array([random.uniform(-60, 60), random.uniform(-40, 40), random.uniform(450, 900)])
        points = box_corners((0, 0, 0), (84, 84, 84)) @ np.transpose(ROTATION) + translation
        pixels = points @ np.transpose(K)
        pixels = np.round(pixels[:, :2] / pixels[:, 2:]).astype(np.int32)
        mask = np.zeros((192, 256), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(pixels), 255)
        picture = random.randint(0, 90, (192, 256, 3)).astype(np.uint8)
        picture[mask > 0] += 120
        cv2.imwrite(str(folder / "rgb" / f"{i:06d}.png"), picture)
        cv2.imwrite(str(folder / "mask_visib" / f"{i:06d}_000000.png"), mask)
        low, high = pixels.min(0).tolist(), pixels.max(0).tolist()
        box = [*low, high[0] - low[0], high[1] - low[1]]
        camera[str(i)] = {"cam_K": np.ravel(K).tolist(), "depth_scale": 1.0}
        truth[str(i)] = [
            {"cam_R_m2c": np.ravel(ROTATION).tolist(), "cam_t_m2c": translation.tolist(), "obj_id": 1}
        ]
        info[str(i)] = [
            {
                "bbox_obj": box,
                "bbox_visib": box,
                "px_count_all": 1,
                "px_count_valid": 1,
                "px_count_visib": 1,
                "visib_fract": 1.0,
            }
        ]
    for name, content in (("scene_camera", camera), ("scene_gt", truth), ("scene_gt_info", info)):
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A BOP data set with the splits train and val."""
    root = tmp_path_factory.mktemp("tiny")
    write_scene(root / "train" / "000000", seed=0)
    write_scene(root / "val" / "000000", images=2, seed=1)
    write_models(root / "models")
    return root


def write_models(folder):
    """A cube of 84 mm: its description, and its corners as a point cloud."""
    folder.mkdir()
    low = {f"min_{a}": -42.0 for a in "xyz"} | {f"size_{a}": 84.0 for a in "xyz"}
    (folder / "models_info.json").write_text(json.dumps({"1": {"diameter": 145.492268, **low}}))
    corners = "\n".join(" ".join(map(str, p)) for p in box_corners((0, 0, 0), (84, 84, 84)))
    (folder / "obj_000001.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 8\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n" + corners + "\n"
    )


def add_depth(scene):
    """Depth maps of a scene's cubes, by casting rays, 0.1 mm; and masks that fit them to the pixel."""
    cameras, truths = (json.loads((scene / f"scene_{n}.json").read_text()) for n in ("camera", "gt"))
    (scene / "depth").mkdir()
    v, u = np.mgrid[0:192, 0:256]
    for key, (truth,) in truths.items():
        R, t = np.reshape(truth["cam_R_m2c"], (3, 3)), np.array(truth["cam_t_m2c"])
        rays = np.stack([(u - 128) / 500, (v - 96) / 500, np.ones(u.shape)], -1)
        start, way = -R.T @ t, rays @ R + 1e-12
        low, high = (np.sort([(-42.0 - start) / way, (42.0 - start) / way], axis=0)[i] for i in (0, 1))
        hit = low.max(-1) < high.min(-1)
        depth = np.where(hit, low.max(-1) * 10, 0).round().astype(np.uint16)
        cv2.imwrite(str(scene / "depth" / f"{int(key):06d}.png"), depth)
        cv2.imwrite(str(scene / "mask_visib" / f"{int(key):06d}_000000.png"), hit.astype(np.uint8) * 255)
        cameras[key]["depth_scale"] = 0.1
    (scene / "scene_camera.json").write_text(json.dumps(cameras))


@pytest.fixture(scope="session")
def dense_data(tmp_path_factory):
    """The same with depth and with a mesh that has faces, as the dense family wants."""
    trimesh = pytest.importorskip("trimesh")
    root = tmp_path_factory.mktemp("dense")
    for split, images in (("train", 6), ("val", 4)):
        write_scene(root / split / "000000", images=images, seed=images)
        add_depth(root / split / "000000")
    write_models(root / "models")
    trimesh.creation.box((84, 84, 84)).export(root / "models" / "obj_000001.ply")
    return root
