# SPDX-License-Identifier: Apache-2.0
"""Measure the effect of refinement and of the tracker on a cube bundle's poses, on the demo's recording:
jitter, errors, and the coverage of the covariances. Each part is switched on separately. Writes
docs/results/tracking.json.

    python -m bench.tracking bundles/cube --frames FOLDER

FOLDER holds the 218 frames image0000.pgm ... of the package visp-images-data. The truth is
``cube_tracking.follow_flow``'s, of optical flow without edges.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from bench.accuracy import CORNERS, RECORDING_K, RIGHT, camera_of, recording_frames
from bench.cube_tracking import follow_flow
from bench.rows import common
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.metrics import error_vector, mahalanobis_radius, mssd
from pose_kd_ros.core.track import MEASURED, Tracker
from pose_kd_ros.pipeline.estimator import CropEstimator
from pose_kd_ros.pipeline.families import open_estimator
from pose_kd_ros.pipeline.follow import ObjectFollower
from pose_kd_ros.pipeline.refine import make_refiner
from pose_kd_ros.provenance import write_whole

OUT = Path("docs/results/tracking.json")
VARIANTS = {  # smooth, keep_factor, refine
    "as measured": (False, 1.0, "none"),
    "filtered": (True, 1.0, "none"),
    "lower score kept": (False, 0.4, "none"),
    "filtered, lower score kept": (True, 0.4, "none"),
    "filtered, lower score kept, refined": (True, 0.4, "edges"),
}


def figures(bundle, frames, truth, smooth: bool, keep_factor: float, refine: str) -> dict[str, float]:
    """Track the cube through the frames; errors are differences from the truth, up to symmetry."""
    estimator = open_estimator(bundle, threads=1)
    assert isinstance(estimator, CropEstimator)  # of objects
    estimator.refiner = make_refiner(refine, bundle)
    estimator.keep_factor, model = keep_factor, estimator.order[0]
    follower = ObjectFollower(estimator, Tracker(estimator.objects, smooth=smooth))
    gaps, distances, covariances = [], [], []
    for index, (grey, true) in enumerate(zip(frames, truth)):
        image = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        tracks = follower.process(index / 25, image, camera_of(RECORDING_K, grey)).tracks
        follower.look_around()
        seen = max((t for t in tracks if t.state in MEASURED), key=lambda t: t.score, default=None)
        if seen is not None:
            gaps.append(error_vector(seen.pose, true, model.symmetries))
            covariances.append(seen.covariance)
            distances.append(float(mssd(seen.pose, true, CORNERS, model.symmetries)) / model.diameter)
    errors, steps = np.array(gaps), np.diff(gaps, axis=0)
    squares = np.einsum("ni,ni->n", errors, np.linalg.solve(covariances, errors[..., None])[..., 0])
    lengths, moves = (np.linalg.norm(each[:, :3], axis=1) for each in (errors, steps))
    return {
        "frames": len(frames),
        "found": len(distances) / len(frames),
        "mssd_01d": sum(d < RIGHT for d in distances) / len(frames),
        "median_translation_m": np.median(lengths),
        "translation_p95_m": np.quantile(lengths, 0.95),
        "median_rotation_rad": np.median(np.linalg.norm(errors[:, 3:], axis=1)),
        "jitter_translation_m": np.median(moves),
        "jitter_translation_p95_m": np.quantile(moves, 0.95),
        "jitter_rotation_rad": np.median(np.linalg.norm(steps[:, 3:], axis=1)),
        "coverage_95": (squares < mahalanobis_radius(0.95)).mean(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=Path, required=True, help="folder with the recording's frames")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    bundle, frames = open_bundle(options.bundle), recording_frames(options.frames)
    truth, training, rows = follow_flow(frames, RECORDING_K), bundle.manifest.training, []
    for name, variant in VARIANTS.items():
        facts = common(name, training.method, bundle.manifest.family, "recording, real", "all frames")
        found = figures(bundle, frames, truth, *variant)
        rows.append(facts | {key: float(f"{value:.4g}") for key, value in found.items()})
        print(json.dumps(rows[-1], indent=1), flush=True)
    write_whole(options.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
