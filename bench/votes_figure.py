"""A picture of several bundles' votes for one object in a render: where their cells say its keypoints are.

    python -m bench.votes_figure data/cube/val 12 out.png TEACHER STUDENT_BEFORE STUDENT_AFTER

One panel a bundle, on the crop about the true object: votes of all cells above the cell score, coloured by
keypoint, true keypoints as rings. Of a symmetric object the representative that the votes are nearest to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.camera import Camera, Crop
from pose_kd_ros.core.pose import transform
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.pipeline.decode import decode_cells
from pose_kd_ros.pipeline.network import load_network
from pose_kd_ros.pipeline.preprocess import network_input
from pose_kd_ros.pipeline.region import projected_box

SCALE = 4  # panel pixels for a pixel of the network's input
COLOURS = cv2.applyColorMap(np.linspace(0, 240, 8).astype(np.uint8), cv2.COLORMAP_HSV).reshape(-1, 3).tolist()


def panel(folder: Path, image, cell_score: float | None) -> np.ndarray:
    """The crop with a bundle's votes, BGR."""
    bundle = open_bundle(folder)
    model, spec = bundle.objects[0], bundle.manifest.input
    pixels = image.load_rgb()
    camera = Camera(image.K, np.zeros(0), "plumb_bob", pixels.shape[1], pixels.shape[0])
    true = max(image.instances, key=lambda i: i.visib_fract).T_camera_object
    crop = Crop.around(projected_box(true, model, camera), spec.size, spec.margin, spec.stride)
    outputs = load_network(bundle, threads=1)(network_input(pixels, crop, spec))
    score = bundle.manifest.decode.cell_score if cell_score is None else cell_score
    votes = decode_cells(outputs, bundle.manifest.network.strides, crop.height, crop.width, score)
    picture = cv2.resize(crop.apply(pixels), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    picture = cv2.addWeighted(picture, 0.6, np.full_like(picture, 255), 0.4, 0)
    rings = nearest_representative(true, model, votes.points, crop, camera)
    for points in votes.points:
        for point, colour in zip(points, COLOURS):
            cv2.circle(picture, place(point), 4, colour, -1, cv2.LINE_AA)
    for point, colour in zip(rings, COLOURS):
        cv2.circle(picture, place(point), 11, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.circle(picture, place(point), 11, colour, 2, cv2.LINE_AA)
    title = f"{folder.name}: {len(votes)} cells"
    cv2.putText(picture, title, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2, cv2.LINE_AA)
    return picture


def place(point) -> tuple[int, int]:
    return tuple(int(v) for v in np.round((np.asarray(point) + 0.5) * SCALE - 0.5))


def nearest_representative(true, model, votes, crop: Crop, camera: Camera) -> np.ndarray:
    """The true keypoints (K, 2), pixels of the crop, in the symmetric pose that the votes (N, K, 2) mean."""
    poses = true @ model.symmetries
    rings = np.stack([crop.to_input(camera.project(transform(pose, model.keypoints))) for pose in poses])
    if not len(votes):
        return rings[0]
    errors = np.linalg.norm(rings[:, None] - votes[None], axis=-1).mean((1, 2))
    return rings[errors.argmin()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", type=Path)
    parser.add_argument("index", type=int, help="which image of the split")
    parser.add_argument("out", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--cell-score", type=float, help="instead of the bundles' own")
    options = parser.parse_args()
    image = BopDataset(options.split).images[options.index]
    if not image.instances:
        parser.error(f"image {options.index} of {options.split} shows no object")
    panels = [panel(folder, image, options.cell_score) for folder in options.bundles]
    cv2.imwrite(str(options.out), np.hstack(panels))


if __name__ == "__main__":
    main()
