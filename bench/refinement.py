# SPDX-License-Identifier: Apache-2.0
"""Measure poses before and after refinement on three sets of real images; write docs/results/refinement.json.

    python -m bench.refinement --frames FOLDER --shared ../shared/data --out docs/results/refinement.json

Recording (FOLDER: its 218 frames, see ``bench.accuracy``): bundles/cube, tracked as in the node. The truth
comes from optical flow alone (``cube_tracking.follow_flow``). It uses no edges, but it starts from a pose
that was clicked by hand, millimetres off the edges, and keeps this error. ``flow_px`` depends on neither: it
is the distance between the motion of two consecutive poses and the optical flow between the frames.

visp_rbt: the cube of 85 mm with depth, 47 frames. In each, two initial poses are drawn around the
pseudo-truth with known deviations, since bundles/cube does not detect this cube. ``along_m`` is the median of
the error along the line of sight. The sensor's depth lies 4.4 mm behind the pseudo-truth (and so do the poses
from edges); "shifted" subtracts this from the depth first.

LM-O, the 100 dev images: bundles/lmo. Meshes are read from the data set and decimated; they are not stored.

Sets whose folder is not given keep their rows in OUT.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

from bench.accuracy import CORNERS, RECORDING_K, camera_of, read_picture, recording_frames
from bench.cube_tracking import flow_error, follow_flow
from bench.rows import common
from pose_kd_ros.bundle.store import open_bundle
from pose_kd_ros.core.depth_fit import refine_on_depth
from pose_kd_ros.core.edges import Refused, refine_on_edges
from pose_kd_ros.core.mesh import Mesh
from pose_kd_ros.core.metrics import mahalanobis_radius, mssd, pose_error, squared_mahalanobis
from pose_kd_ros.core.refine import moved
from pose_kd_ros.core.track import MEASURED, Tracker
from pose_kd_ros.core.uncertainty import stated_covariance
from pose_kd_ros.datasets.bop import BopDataset
from pose_kd_ros.datasets.bop.folder import mesh_path
from pose_kd_ros.datasets.meshes import load_ply_vertices, load_small_mesh
from pose_kd_ros.pipeline.estimator import CropEstimator
from pose_kd_ros.pipeline.families import open_estimator
from pose_kd_ros.pipeline.follow import ObjectFollower
from pose_kd_ros.pipeline.refine import LEAST_UNSURE, EdgeRefiner

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"
STARTS = 2  # in each frame of visp_rbt
ACROSS, ALONG, TURN = 0.003, 0.02, 0.06  # their deviations: metres, shares of the distance, radians
BEHIND = 0.0044  # metres: how far the sensor's depth lies behind the pseudo-truth
RECALL = np.arange(0.05, 0.51, 0.05)  # diameters, as BOP19's MSSD recall


class Errors:
    """Collects the errors of one method's poses."""

    def __init__(self):
        self.rows, self.covered, self.ms, self.refused, self.flow, self.worse = [], [], [], 0, [], []

    def add(self, pose, covariance, true, model, points) -> None:
        shift, turn = pose_error(pose, true, model.symmetries)
        sight = true[:3, 3] / np.linalg.norm(true[:3, 3])
        far = float(mssd(pose, true, points, model.symmetries)) / model.diameter
        self.rows.append([float(shift), float(turn), far, float((pose - true)[:3, 3] @ sight)])
        square = squared_mahalanobis(pose, covariance, true, model.symmetries)
        self.covered.append(square < mahalanobis_radius(0.95))

    def figures(self) -> dict[str, float]:
        shift, turn, far, along = np.array(self.rows).T
        values = {
            "poses": len(far),
            "median_translation_m": np.median(shift),
            "translation_p90_m": np.quantile(shift, 0.9),
            "along_m": np.median(along),
            "median_rotation_rad": np.median(turn),
            "median_mssd_d": np.median(far),
            "mssd_01d": (far < 0.1).mean(),
            "mssd_recall_of_found": np.mean([(far < least).mean() for least in RECALL]),
            "coverage_95": np.mean(self.covered),
        }
        if self.ms:
            values |= {"refine_ms": np.median(self.ms), "refused": self.refused / len(self.ms)}
        if self.worse:
            values["worse_001d"] = np.mean(self.worse)
        if self.flow:
            values["flow_px"] = np.nanmedian(self.flow)
        return {name: float(f"{value:.4g}") for name, value in values.items()}


class Timed(EdgeRefiner):
    """Records the milliseconds of its thread for each frame."""

    ms: list[float]

    def __call__(self, image, camera, poses):
        started = time.thread_time()
        result = super().__call__(image, camera, poses)
        self.ms.append(1e3 * (time.thread_time() - started))
        return result


def on_recording(frames) -> dict[str, Errors]:
    """Measure the poses of PnP, without and with refinement, before the motion filter."""
    truth, found = follow_flow(frames, RECORDING_K), {}
    for name, kind in (("PnP", "none"), ("edges", "edges")):
        found[name], last = Errors(), None
        estimator = open_estimator(open_bundle(BUNDLES / "cube"), threads=1)
        assert isinstance(estimator, CropEstimator)  # of objects
        model = estimator.order[0]
        if kind == "edges":
            estimator.refiner = timed = Timed({model.id: Mesh.of_box(model)}, estimator.objects)
            timed.ms = found[name].ms
        follower = ObjectFollower(estimator, Tracker(estimator.objects))
        for i, (grey, true) in enumerate(zip(frames, truth)):
            image, camera = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), camera_of(RECORDING_K, grey)
            followed = follower.process(i / 25, image, camera)
            follower.look_around()
            tracks = [track for track in followed.tracks if track.state in MEASURED]
            if not tracks:
                last = None
                continue
            one = max(tracks, key=lambda track: track.score).measured
            assert one is not None  # its state says so
            found[name].add(one.pose, one.covariance, true, model, CORNERS)
            if last is not None:
                near = min(one.pose @ model.symmetries, key=lambda pose: np.abs(pose - last).sum())
                found[name].flow.append(flow_error(frames[i - 1], grey, last, near, RECORDING_K))
            last = one.pose
        if estimator.refiner:
            counts = estimator.refiner.counts
            found[name].refused = sum(counts.values()) - counts["refined"]
    return found


def refined(errors: Errors, refine, pose, covariance, true, model, points) -> tuple[np.ndarray, np.ndarray]:
    """Refine a pose, record the time of this thread and the error, and return the result; the initial pose if
    the refinement refuses."""
    start, started = pose, time.thread_time()
    try:
        pose, covariance = refine(pose, covariance)
    except Refused:
        errors.refused += 1
    errors.ms.append(1e3 * (time.thread_time() - started))
    errors.add(pose, covariance, true, model, points)
    before = float(mssd(start, true, points, model.symmetries)) / model.diameter
    errors.worse.append(errors.rows[-1][2] > before + 0.01)
    return pose, covariance


def on_visp_rbt(folder: Path) -> dict[str, Errors]:
    content = json.loads((folder / "poses_checked.json").read_text())
    records, K = {f["index"]: f for f in content["frames"]}, np.array(content["K"])
    model = open_bundle(BUNDLES / "cube").objects[0].scaled(85 / 84)
    mesh, random = Mesh.of_box(model), np.random.RandomState(0)
    names = ("start", "edges", "depth", "depth, shifted", "edges, then depth, shifted")
    found = {name: Errors() for name in names}
    for index in content["tracked_cube_frames"]:
        image = read_picture(folder / records[index]["rgb"])[..., ::-1].copy()
        depth = read_picture(folder / records[index]["depth"], -1) * content["depth_scale_m"]
        true, camera = (
            np.array(records[index]["objects"]["cube"]["T_cam_objfile_tracked"]),
            camera_of(K, image),
        )
        distance = np.linalg.norm(true[:3, 3])
        sight = np.outer(true[:3, 3], true[:3, 3]) / distance**2
        covariance = np.diag([ACROSS**2] * 3 + [TURN**2] * 3)
        covariance[:3, :3] += ((ALONG * distance) ** 2 - ACROSS**2) * sight

        def on_edges(pose, spread, image=image, camera=camera):
            one = refine_on_edges(image, camera, mesh, pose, spread)
            return one.pose, one.covariance

        def on_depth(pose, spread, depth=depth, camera=camera):
            return refine_on_depth(depth, camera, mesh, pose, spread)

        def on_shifted(pose, spread, depth=depth, camera=camera):
            shifted = np.where(depth > 0, depth - BEHIND, 0)
            return refine_on_depth(shifted, camera, mesh, pose, spread)

        for _ in range(STARTS):
            start = moved(true, np.linalg.cholesky(covariance) @ random.randn(6)), covariance
            found["start"].add(*start, true, model, CORNERS * 85 / 84)
            rest = true, model, CORNERS * 85 / 84
            edges = refined(found["edges"], on_edges, *start, *rest)
            refined(found["depth"], on_depth, *start, *rest)
            refined(found["depth, shifted"], on_shifted, *start, *rest)
            refined(found["edges, then depth, shifted"], on_shifted, *edges, *rest)
    return found


def on_lmo(folder: Path) -> dict[str, Errors]:
    split = folder / "test"
    estimator = open_estimator(open_bundle(BUNDLES / "lmo"), threads=1)
    assert isinstance(estimator, CropEstimator)  # of objects
    meshes = {i: load_small_mesh(mesh_path(split, i)) for i in estimator.objects}
    points = {i: load_ply_vertices(mesh_path(split, i))[::7] for i in estimator.objects}
    found = {"PnP": Errors(), "edges": Errors()}
    for image in BopDataset(split).images:
        pixels = image.load_rgb()
        camera = camera_of(image.K, pixels)
        truths = {one.object_id: one.T_camera_object for one in image.instances}
        for pose in estimator.estimate(pixels, camera).poses:
            model, true = estimator.objects[pose.object_id], truths.get(pose.object_id)
            if true is None or mssd(pose.pose, true, points[model.id], model.symmetries) > model.diameter:
                continue
            rest = true, model, points[model.id]
            found["PnP"].add(pose.pose, pose.covariance, *rest)

            def on_edges(start, spread, pixels=pixels, camera=camera, model=model):
                spread = stated_covariance(spread, start, model, 1.0, LEAST_UNSURE)
                one = refine_on_edges(pixels, camera, meshes[model.id], start, spread)
                return one.pose, one.covariance

            refined(found["edges"], on_edges, pose.pose, pose.covariance, *rest)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=Path, help="folder with the recording's frames")
    parser.add_argument("--shared", type=Path, help="folder with visp_rbt/ and lmo/")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    frames, shared = options.frames, options.shared
    sets = (
        ("recording", "visp-images mbt/cube", "real", frames, lambda: on_recording(recording_frames(frames))),
        ("visp_rbt", "visp_rbt", "47 tracked frames, real", shared, lambda: on_visp_rbt(shared / "visp_rbt")),
        ("LM-O", "lmo", "lmo-dev100, real", shared, lambda: on_lmo(shared / "lmo")),
    )
    there = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else []
    rows = []
    for where, dataset, split, given, measure in sets:
        if not given:
            rows += [row for row in there if row["dataset"] == dataset]
            continue
        family = "surface" if where == "LM-O" else "keypoint"
        for name, errors in measure().items():
            rows.append(common(f"{where}, {name}", "none", family, dataset, split) | errors.figures())
            print(rows[-1]["name"], errors.figures(), flush=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
