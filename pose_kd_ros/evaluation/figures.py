# SPDX-License-Identifier: Apache-2.0
"""The figures of a recording, from the lines of frames.jsonl alone: with truth, without, and over time.

Fractions in 0..1, SI units, but for names that end in ``_ms`` or ``_px``; NaN where there was nothing to
measure. Those that an evaluation on a BOP data set has too come from ``metrics``.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from ..core.metrics import auc_posecnn, mahalanobis_radius, recall, squared_mahalanobis
from ..core.object_model import ObjectModel
from ..core.pose import make_pose, rotation_angle, to_rotation_vector
from . import metrics
from .frame import VISIBLE, Frame
from .frames import Objects, Points, matches_of
from .matching import FOUND
from .metrics import WITHIN

SHARES = (0.5, 0.9, 0.95)  # of errors that the ellipsoids of the covariance are to hold
NAN = float("nan")


def all_figures(frames: Sequence[Frame], objects: Objects, points: Points) -> dict:
    """The figures of a run; those with truth only where the truth of a frame is known."""
    known = [frame for frame in frames if frame.has_truth]
    with_truth = truth_figures(known, objects, points) if known else {}
    return {**with_truth, **blind_figures(frames), **track_figures(frames, objects)}


def object_figures(frames: Sequence[Frame], objects: Objects, points: Points) -> dict:
    """{id: {class_name, figures ...}}, without those of time, which no object has for itself."""
    result = {}
    for key, model in objects.items():
        values = all_figures([frame.only(key) for frame in frames], {key: model}, points)
        own = {
            name: value for name, value in values.items() if not name.endswith("_ms") and "ms_" not in name
        }
        result[str(key)] = {"class_name": model.name, **own}
    return result


def truth_figures(frames: Sequence[Frame], objects: Objects, points: Points) -> dict:
    """What can be said against true poses, over the instances that are in view.

    vsd: where there is depth and a mesh, see ``frame_vsd``; ar: where there is in all.

    auc_add, auc_adds: PoseCNN's, to 0.1 m. within_...: both errors below. coverage_<p>: share of found
    instances whose error lies inside the ellipsoid of the covariance that is to hold p per cent of them.
    """
    compared = [matches for frame in frames for matches in matches_of(frame, objects, points)]
    seconds = [frame.latency_ms / 1e3 for frame in frames]
    errors = [error for frame in frames for error in frame.visible_errors]

    def column(name: str, in_metres: bool = False) -> np.ndarray:
        sizes = [objects[error.object_id].diameter if in_metres else 1.0 for error in errors]
        values = [_or_infinity(getattr(error, name)) for error in errors]
        return np.array(values, float) * sizes

    shift, turn = column("translation_m"), column("rotation_rad")
    distances = mahalanobis(frames, objects)
    with_depth = metrics.vsd_recall([matches for matches in compared if matches.vsd is not None])
    return {
        **metrics.figures(compared, len(frames), seconds),
        **({} if with_depth is None else {"vsd": with_depth}),
        **metrics.add_recalls(compared),
        "auc_add": auc_posecnn(column("add_d", True)),
        "auc_adds": auc_posecnn(column("adds_d", True)),
        **{
            f"within_{round(100 * m)}cm_{d}deg": mean((shift < m) & (turn < np.radians(d))) for m, d in WITHIN
        },
        **{f"coverage_{round(100 * p)}": mean(distances < mahalanobis_radius(p)) for p in SHARES},
        "id_switches": id_switches(frames),
    }


def _or_infinity(value: float | None) -> float:
    return np.inf if value is None else value


def mean(values: np.ndarray) -> float:
    """The mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else NAN


def mahalanobis(frames: Sequence[Frame], objects: Objects) -> np.ndarray:
    """Squared Mahalanobis distances (N,) of the found instances' errors; chi-squared with 6 degrees of
    freedom if covariances are what they say."""
    result = []
    for frame in frames:
        for error, estimate, true in frame.found(FOUND):
            if true.visib_fract >= VISIBLE:
                pair = estimate.T_camera_object, estimate.covariance
                symmetries = objects[error.object_id].symmetries
                result.append(squared_mahalanobis(*pair, true.T_camera_object, symmetries))
    return np.array(result, float)


def nearest_representative(estimate: np.ndarray, true: np.ndarray, model: ObjectModel) -> np.ndarray:
    """The symmetric equivalent of the true pose that is turned away least."""
    candidates = true @ model.symmetries
    return candidates[int(np.argmin(rotation_angle(candidates[:, :3, :3], estimate[:3, :3])))]


def id_switches(frames: Sequence[Frame]) -> int:
    """How often a true instance is found by another track than the last time it was found.

    Instances are identified by their order in the truth, object by object.
    """
    last: dict[tuple[int, int], int | None] = {}
    switches = 0
    for frame in frames:
        ranks: dict[int, int] = defaultdict(int)
        for error in frame.errors:
            key = error.object_id, ranks[error.object_id]
            ranks[error.object_id] += 1
            if error.estimate is not None and error.mssd_d is not None and error.mssd_d < FOUND:
                track = frame.estimates[error.estimate].track_id
                switches += last.get(key, track) != track
                last[key] = track
    return switches


def blind_figures(frames: Sequence[Frame]) -> dict:
    """What can be said without truth.

    found_rate: share of frames with a measured pose. consistency_px: median distance of a box's corners from
    where the track expected them. edge_px, edge_agreement: of the outline, where a mesh was given.
    """
    found = [frame.measured_estimates for frame in frames]
    every = [estimate for estimates in found for estimate in estimates]
    gaps = [one.consistency_px for one in every if one.consistency_px is not None]
    outlined = [one for one in every if one.edge_agreement is not None]
    edges = {}
    if outlined:
        near = [one.edge_px for one in outlined if one.edge_px is not None]
        shares = np.array([one.edge_agreement for one in outlined])
        edges = {"edge_px": quantile(near, 50), "edge_agreement": mean(shares)}
    latencies = [frame.latency_ms for frame in frames]
    return {
        "images": len(frames),
        "found_rate": mean(np.array([bool(estimates) for estimates in found])),
        "poses_per_image": len(every) / max(len(frames), 1),
        "consistency_px": quantile(gaps, 50),
        "consistency_p95_px": quantile(gaps, 95),
        **edges,
        "ms_per_image": quantile(latencies, 50),
        **{f"latency_p{share}_ms": quantile(latencies, share) for share in (50, 95, 99)},
    }


def quantile(values: Sequence[float], per_cent: float) -> float:
    """A percentile, NaN of nothing."""
    return float(np.percentile(values, per_cent)) if len(values) else NAN


def track_figures(frames: Sequence[Frame], objects: Objects) -> dict:
    """tracks: ids that were given. tracks_lost: given up while the recording ran. jitter_...: see ``jitter``;
    of the errors where there is truth, so that motion does not count."""
    states = {(one.track_id, one.state) for frame in frames for one in frame.estimates}
    shifts, turns = [np.zeros(0)], [np.zeros(0)]
    for poses in triples(frames, objects):
        shift, turn = jitter(poses)
        shifts.append(shift)
        turns.append(turn)
    return {
        "tracks": len({track for track, _ in states}),
        "tracks_lost": sum(state == "lost" for _, state in states),
        "jitter_translation_m": root_mean_square(np.concatenate(shifts)),
        "jitter_rotation_rad": root_mean_square(np.concatenate(turns)),
    }


def root_mean_square(values: np.ndarray) -> float:
    """NaN of nothing."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else NAN


def triples(frames: Sequence[Frame], objects: Objects) -> Iterator[np.ndarray]:
    """Yield the poses (3, 4, 4) of each track in each three successive frames that all measured it.

    Of a run with truth the poses relative to it, and only those of found instances.
    """
    has_truth = any(frame.has_truth for frame in frames)
    poses = [_relative(frame, objects) if has_truth else _absolute(frame) for frame in frames]
    for three in zip(poses, poses[1:], poses[2:]):
        for track in sorted(three[0].keys() & three[1].keys() & three[2].keys()):
            yield np.array([one[track] for one in three])


def _absolute(frame: Frame) -> dict[int, np.ndarray]:
    found = frame.measured_estimates
    return {one.track_id: one.T_camera_object for one in found if one.track_id is not None}


def _relative(frame: Frame, objects: Objects) -> dict[int, np.ndarray]:
    poses: dict[int, np.ndarray] = {}
    for error, estimate, instance in frame.found(FOUND):
        pose = estimate.T_camera_object
        true = nearest_representative(pose, instance.T_camera_object, objects[error.object_id])
        turn, shift = true[:3, :3].T @ pose[:3, :3], pose[:3, 3] - true[:3, 3]
        if estimate.track_id is not None:
            poses[estimate.track_id] = make_pose(turn, shift)
    return poses


def jitter(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scatter (1,) in metres and (1,) in radians of three successive poses (3, 4, 4) about even motion.

    The length of the second difference over the root of 6: of independent noise its root mean square is the
    noise's, and even motion adds nothing.
    Convention: 0, 3 and 0 mm along one axis give 6 / 2.449 = 2.449 mm.
    """
    places, turns = poses[:, :3, 3], poses[:, :3, :3]
    steps = [to_rotation_vector(first.T @ second) for first, second in itertools.pairwise(turns)]
    bends = places[0] - 2 * places[1] + places[2], steps[1] - steps[0]
    shift, turn = (np.array([np.linalg.norm(bend)]) / np.sqrt(6) for bend in bends)
    return shift, turn


def curves(frames: Sequence[Frame], objects: Objects) -> dict[str, dict]:
    """Recall over thresholds, and how the covariance's ellipsoids hold what they say; {} without truth."""
    known = [frame for frame in frames if frame.has_truth]
    errors = [(error, frame.width) for frame in known for error in frame.visible_errors]
    if not errors:
        return {}

    def curve(name: str, limit: float, label: str, in_vga: bool = False) -> dict:
        x = np.linspace(0, limit, 51)
        values = [_or_infinity(getattr(e, name)) * (640 / w if in_vga else 1) for e, w in errors]
        return {"x": x.tolist(), "y": [recall(values, limit) for limit in x], "x_label": label}

    found = mahalanobis(known, objects)
    shares = np.linspace(0.05, 0.95, 19)
    held = [mean(found < mahalanobis_radius(share)) for share in shares]
    coverage = {"x": shares.tolist(), "y": held, "x_label": "share that the covariance promises"}
    return {
        "mssd": curve("mssd_d", 0.5, "MSSD, diameters"),
        "mspd": curve("mspd_px", 50, "MSPD, pixels of an image 640 wide", in_vga=True),
        "add": curve("add_d", 0.5, "ADD, diameters"),
        "adds": curve("adds_d", 0.5, "ADD-S, diameters"),
        **({"coverage": coverage} if len(found) else {}),
    }
