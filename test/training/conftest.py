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
    (root / "models").mkdir()
    low = {f"min_{a}": -42.0 for a in "xyz"} | {f"size_{a}": 84.0 for a in "xyz"}
    (root / "models" / "models_info.json").write_text(json.dumps({"1": {"diameter": 145.492268, **low}}))
    corners = "\n".join(" ".join(map(str, p)) for p in box_corners((0, 0, 0), (84, 84, 84)))
    (root / "models" / "obj_000001.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 8\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
        + corners
        + "\n"
    )
    return root
