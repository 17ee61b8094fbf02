# SPDX-License-Identifier: Apache-2.0
"""Measure a cube bundle on renders, on two real recordings, and on images without a cube; write
docs/results/cube.json.

    python -m bench.accuracy bundles/cube --renders data/cube/val --shared ../shared/data --frames FOLDER
    --out docs/results/cube.json

FOLDER holds the 218 frames image0000.pgm ... of the package visp-images-data. A set whose folder is not given
keeps its row in OUT, with its date and commit, if there is one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bench.cube_tracking import CORNERS, FIRST, edge_error, follow, mask_of
from bench.rows import common
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.metrics import mssd, pose_error
from pose_kd_ros.core.track import MEASURED, Tracker
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.pipeline.estimator import CropEstimator
from pose_kd_ros.pipeline.families import open_estimator
from pose_kd_ros.pipeline.follow import ObjectFollower

RECORDING_K = np.array([[547.7367575, 0, 338.7036994], [0, 542.0744058, 234.5083345], [0, 0, 1]])
RIGHT = 0.1  # largest MSSD of a right pose, diameters
SAME = ("name", "network", "method", "seed", "steps", "dataset", "split")  # of rows that are kept


def camera_of(K, image) -> Camera:
    return Camera(K, np.zeros(0), "plumb_bob", image.shape[1], image.shape[0])


def errors(pose, true, model, points) -> tuple[float, float, float]:
    """MSSD over the diameter, rotation error (rad) and translation error (m), up to symmetry."""
    shift, turn = pose_error(pose, true, model.symmetries)
    return float(mssd(pose, true, points, model.symmetries)) / model.diameter, float(turn), float(shift)


def summary(rows: list[tuple[float, float, float]], frames: int) -> dict[str, float]:
    """Figures over all frames; medians over those with a pose."""
    values = np.array(rows).reshape(-1, 3)
    return (
        {
            "frames": frames,
            "found": len(values) / frames,
            "mssd_01d": float((values[:, 0] < RIGHT).sum() / frames),
            "right_of_found": float((values[:, 0] < RIGHT).mean()) if len(values) else float("nan"),
            "median_mssd_d": float(np.median(values[:, 0])),
            "median_rotation_rad": float(np.median(values[:, 1])),
            "median_translation_m": float(np.median(values[:, 2])),
        }
        if len(values)
        else {"frames": frames, "found": 0.0}
    )


def read_picture(path: Path, how: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Read a picture, (H, W, 3) BGR or as ``how`` says; raise ValueError if it cannot be read."""
    picture = cv2.imread(str(path), how)
    if picture is None:
        raise ValueError(f"{path}: wanted a picture, found none that can be read")
    return picture


def recording_frames(folder: Path) -> list[np.ndarray]:
    return [read_picture(path, cv2.IMREAD_GRAYSCALE) for path in sorted(folder.glob("image*.pgm"))]


def on_recording(estimator, frames, tracked: bool) -> dict:
    """Measure on the 218 frames, each alone or tracked as in the node. The truth is that of
    ``cube_tracking``: the recording states only the first pose."""
    truth, model = follow(frames, RECORDING_K), estimator.order[0]
    follower = ObjectFollower(estimator, Tracker(estimator.objects))
    rows, edges, first = [], [], None
    for index, (grey, true) in enumerate(zip(frames, truth)):
        image, camera = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), camera_of(RECORDING_K, grey)
        if tracked:
            poses = [t for t in follower.process(index / 25, image, camera).tracks if t.state in MEASURED]
            follower.look_around()
        else:
            poses = estimator.estimate(image, camera).poses
        if poses:
            pose = max(poses, key=lambda p: p.score).pose
            rows.append(errors(pose, true, model, CORNERS))
            edges.append(edge_error(grey, pose, RECORDING_K))
            first = errors(pose, FIRST, model, CORNERS) if index == 0 else first
    near = [median <= 2 and share >= 0.6 for median, share in edges]
    return summary(rows, len(frames)) | {
        "right_by_edges": float(np.mean(near)) if near else float("nan"),
        "first_frame_mssd_d": first[0] if first else float("nan"),
    }


def painted_out(frames) -> list[np.ndarray]:
    """Return the recording without its cube: the silhouette, grown by 12 px, is filled from its surroundings,
    with noise added."""
    random = np.random.RandomState(0)
    result = []
    for grey, pose in zip(frames, follow(frames, RECORDING_K)):
        mask = mask_of(pose, RECORDING_K, grey.shape, -12)
        filled = cv2.inpaint(grey, mask, 5, cv2.INPAINT_TELEA).astype(float)
        filled[mask > 0] += random.normal(0, 2, int((mask > 0).sum()))
        result.append(np.clip(filled, 0, 255).astype(np.uint8))
    return result


def false_positives(estimator, images) -> dict:
    """Count the poses per image on images without a cube."""
    found = [len(estimator.estimate(image, camera_of(K, image)).poses) for image, K in images]
    return {
        "frames": len(found),
        "false_positives_per_image": float(np.mean(found)),
        "share_of_frames_with_one": float(np.mean(np.array(found) > 0)),
    }


def on_visp_rbt(estimator, folder: Path) -> dict:
    """Measure on the real 85 mm cube with pseudo ground truth; the bundle's object is scaled by 85/84."""
    estimator = estimator.scaled({estimator.order[0].id: 85 / 84})
    content = json.loads((folder / "poses_checked.json").read_text())
    model, rows, frames = estimator.order[0], [], content["tracked_cube_frames"]
    records = {f["index"]: f for f in content["frames"]}
    for index in frames:
        image = read_picture(folder / records[index]["rgb"])[..., ::-1].copy()
        true = np.array(records[index]["objects"]["cube"]["T_cam_objfile_tracked"])
        poses = estimator.estimate(image, camera_of(np.array(content["K"]), image)).poses
        if poses:
            rows.append(errors(max(poses, key=lambda p: p.score).pose, true, model, CORNERS * 85 / 84))
    return summary(rows, len(frames))


def row(bundle, name: str, dataset: str, split: str, figures: dict) -> dict:
    """Return a row with the keys that all rows of docs/results share."""
    training = bundle.manifest.training
    shared = common(
        name,
        training.method,
        bundle.manifest.family,
        dataset,
        split,
        network=f"{bundle.manifest.network.parameters / 1e6:.2f} M parameters",
        seed=training.seed,
        steps=training.steps,
    )
    return shared | {k: float(f"{v:.5g}") for k, v in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--renders", type=Path, help="held-out split of rendered images")
    parser.add_argument("--shared", type=Path, help="folder with visp_rbt/ and lmo/")
    parser.add_argument("--frames", type=Path, help="folder with the recording's frames")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--pose-score", type=float, help="instead of the bundle's")
    parser.add_argument("--cell-score", type=float, help="instead of the bundle's")
    parser.add_argument("--search-size", type=int, help="instead of the bundle's")
    parser.add_argument("--limit", type=int, default=2000, help="renders at most")
    parser.add_argument(
        "--first", type=int, default=0, help="leave out so many renders, which chose something"
    )
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    if options.search_size:
        spec = replace(bundle.manifest.input, search_size=options.search_size)
        bundle = replace(bundle, manifest=replace(bundle.manifest, input=spec))
    thresholds = {"pose_score": options.pose_score, "cell_score": options.cell_score}
    estimator = open_estimator(bundle, threads=1, **thresholds)
    assert isinstance(estimator, CropEstimator)  # of objects
    rows = []

    kept = {}
    if options.out and options.out.exists():
        there = json.loads(options.out.read_text(encoding="utf-8"))
        kept = {tuple(r[key] for key in SAME): r for r in there}

    def add(name, dataset, split, figures):
        measured = row(bundle, name, dataset, split, figures or {})
        there = measured if figures else kept.get(tuple(measured[key] for key in SAME))
        if there:
            rows.append(there)
        print(name, {k: v for k, v in (there or {}).items() if isinstance(v, float)}, flush=True)

    recording = "visp-images mbt/cube"
    followed = searched = without = rbt = empty = renders = None
    if options.frames:
        frames = recording_frames(options.frames)
        followed, searched = (on_recording(estimator, frames, tracked) for tracked in (True, False))
        erased = [(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB), RECORDING_K) for frame in painted_out(frames)]
        without = false_positives(estimator, erased)
    if options.shared:
        rbt = on_visp_rbt(estimator, options.shared / "visp_rbt")
        images = BopDataset(options.shared / "lmo" / "test").images
        empty = false_positives(estimator, [(image.load_rgb(), image.K) for image in images])
    if options.renders:
        from pose_kd_ros.evaluation.metrics import figures
        from training.measure.evaluate import measure

        renders = figures(*measure(estimator, options.renders, options.limit, options.first))
    add("recording, followed", recording, "real", followed)
    add("recording, frame by frame", recording, "real", searched)
    add("recording, cube painted out", recording, "real, edited", without)
    add("visp_rbt cube", "visp_rbt", "47 tracked frames, real", rbt)
    add("images without a cube", "lmo", "lmo-dev100, real", empty)
    add("held-out renders", "cube renders", "val, synthetic", renders)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
