"""The figures of a recording, from the lines of frames.jsonl alone: with truth, without, and over time.

Fractions in 0..1, SI units, but for names that end in ``_ms`` or ``_px``; NaN where there was nothing to
measure. Those that an evaluation on a BOP data set has too come from ``metrics``.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..core.metrics import auc_posecnn, mahalanobis_radius, recall, squared_mahalanobis
from ..core.object_model import ObjectModel
from ..core.pose import make_pose, rotation_angle, to_rotation_vector
from . import metrics
from .frames import groups, measured, pose_of
from .matching import FOUND, VISIBLE
from .metrics import WITHIN

SHARES = (0.5, 0.9, 0.95)  # of errors that the ellipsoids of the covariance are to hold
NAN = float("nan")
Objects = Mapping[int, ObjectModel]


def all_figures(records: Sequence[dict], objects: Objects, points: Mapping[int, np.ndarray]) -> dict:
    """The figures of a run; those with truth only where a frame of it is judged."""
    judged = [record for record in records if record["judged"]]
    with_truth = truth_figures(judged, objects, points) if judged else {}
    return {**with_truth, **blind_figures(records), **track_figures(records, objects)}


def object_figures(records: Sequence[dict], objects: Objects, points: Mapping[int, np.ndarray]) -> dict:
    """{id: {class_name, figures ...}}, without those of time, which no object has for itself."""
    result = {}
    for key, model in objects.items():
        values = all_figures([only(record, key) for record in records], {key: model}, points)
        own = {
            name: value for name, value in values.items() if not name.endswith("_ms") and "ms_" not in name
        }
        result[str(key)] = {"class_name": model.name, **own}
    return result


def only(record: dict, object_id: int) -> dict:
    """The same frame as if it held but one object's estimates and truth."""
    places = {
        name: [i for i, one in enumerate(record[name]) if one["object_id"] == object_id]
        for name in ("estimates", "truth")
    }
    lists = {name: [record[name][i] for i in kept] for name, kept in places.items()}
    errors = [
        error
        | {
            "truth": places["truth"].index(error["truth"]),
            "estimate": None if error["estimate"] is None else places["estimates"].index(error["estimate"]),
        }
        for error in record["errors"]
        if error["object_id"] == object_id
    ]
    return {**record, **lists, "errors": errors}


def truth_figures(records: Sequence[dict], objects: Objects, points: Mapping[int, np.ndarray]) -> dict:
    """What can be said against true poses, over the instances that are in view.

    vsd: where there is depth and a mesh, see ``frame_vsd``; ar: where there is in all.

    auc_add, auc_adds: PoseCNN's, to 0.1 m. within_...: both errors below. coverage_<p>: share of found
    instances whose error lies inside the ellipsoid of the covariance that is to hold p per cent of them.
    """
    compared = [group for record in records for group in groups(record, objects, points)]
    seconds = [record["latency_ms"] / 1e3 for record in records]
    errors = [error for record in records for error in asked(record)]

    def column(name: str, in_metres: bool = False) -> np.ndarray:
        sizes = [objects[error["object_id"]].diameter if in_metres else 1.0 for error in errors]
        values = [np.inf if error[name] is None else error[name] for error in errors]
        return np.array(values, float) * sizes

    shift, turn = column("translation_m"), column("rotation_rad")
    distances = mahalanobis(records, objects)
    with_depth = metrics.vsd_recall([group for group in compared if group.vsd is not None])
    return {
        **metrics.figures(compared, len(records), seconds),
        **({} if with_depth is None else {"vsd": with_depth}),
        **metrics.add_recalls(compared),
        "auc_add": auc_posecnn(column("add_d", True)),
        "auc_adds": auc_posecnn(column("adds_d", True)),
        **{
            f"within_{round(100 * m)}cm_{d}deg": mean((shift < m) & (turn < np.radians(d))) for m, d in WITHIN
        },
        **{f"coverage_{round(100 * p)}": mean(distances < mahalanobis_radius(p)) for p in SHARES},
        "id_switches": id_switches(records),
    }


def asked(record: dict) -> list[dict]:
    """The errors of the instances that count."""
    return [e for e in record["errors"] if record["truth"][e["truth"]]["visib_fract"] >= VISIBLE]


def mean(values: np.ndarray) -> float:
    """The mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else NAN


def mahalanobis(records: Sequence[dict], objects: Objects) -> np.ndarray:
    """Squared Mahalanobis distances (N,) of the found instances' errors; chi-squared with 6 degrees of
    freedom if covariances are what they say."""
    result = []
    for record in records:
        for error in asked(record):
            if error["estimate"] is None or error["mssd_d"] >= FOUND:
                continue
            estimate = record["estimates"][error["estimate"]]
            pair = pose_of(estimate), np.reshape(estimate["covariance"], (6, 6))
            true, model = pose_of(record["truth"][error["truth"]]), objects[error["object_id"]]
            result.append(squared_mahalanobis(*pair, true, model.symmetries))
    return np.array(result, float)


def nearest_representative(estimate: np.ndarray, true: np.ndarray, model: ObjectModel) -> np.ndarray:
    """The symmetric equivalent of the true pose that is turned away least."""
    candidates = true @ model.symmetries
    return candidates[int(np.argmin(rotation_angle(candidates[:, :3, :3], estimate[:3, :3])))]


def id_switches(records: Sequence[dict]) -> int:
    """How often a true instance is found by another track than the last time it was found.

    Instances are told apart by their order in the truth, object by object.
    """
    last: dict[tuple[int, int], int] = {}
    switches = 0
    for record in records:
        ranks: dict[int, int] = defaultdict(int)
        for error in record["errors"]:
            key = error["object_id"], ranks[error["object_id"]]
            ranks[error["object_id"]] += 1
            if error["estimate"] is not None and error["mssd_d"] < FOUND:
                track = record["estimates"][error["estimate"]]["track_id"]
                switches += last.get(key, track) != track
                last[key] = track
    return switches


def blind_figures(records: Sequence[dict]) -> dict:
    """What can be said without truth.

    found_rate: share of frames with a measured pose. consistency_px: median distance of a box's corners
    from where the track expected them. edge_px, edge_agreement: of the outline, where a mesh was given.
    """
    found = [[record["estimates"][i] for i in measured(record)] for record in records]
    every = [estimate for frame in found for estimate in frame]
    gaps = [one["consistency_px"] for one in every if one["consistency_px"] is not None]
    edges = {}
    if any("edge_px" in one for one in every):
        near = [one["edge_px"] for one in every if one["edge_px"] is not None]
        shares = np.array([one["edge_agreement"] for one in every])
        edges = {"edge_px": quantile(near, 50), "edge_agreement": mean(shares)}
    latencies = [record["latency_ms"] for record in records]
    return {
        "images": len(records),
        "found_rate": mean(np.array([bool(frame) for frame in found])),
        "poses_per_image": len(every) / max(len(records), 1),
        "consistency_px": quantile(gaps, 50),
        "consistency_p95_px": quantile(gaps, 95),
        **edges,
        "ms_per_image": quantile(latencies, 50),
        **{f"latency_p{share}_ms": quantile(latencies, share) for share in (50, 95, 99)},
    }


def quantile(values: Sequence[float], per_cent: float) -> float:
    """A percentile, NaN of nothing."""
    return float(np.percentile(values, per_cent)) if len(values) else NAN


def track_figures(records: Sequence[dict], objects: Objects) -> dict:
    """tracks: ids that were given. tracks_lost: given up while the recording ran. jitter_...: see
    ``jitter``; of the errors where there is truth, so that motion does not count."""
    states = {(one["track_id"], one["state"]) for record in records for one in record["estimates"]}
    shifts, turns = [np.zeros(0)], [np.zeros(0)]
    for poses in triples(records, objects):
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


def triples(records: Sequence[dict], objects: Objects) -> Iterator[np.ndarray]:
    """Yield the poses (3, 4, 4) of each track in each three successive frames that all measured it.

    Of a run with truth the poses relative to it, and only those of found instances.
    """
    has_truth = any(record["judged"] for record in records)
    frames = [_relative(record, objects) if has_truth else _absolute(record) for record in records]
    for three in zip(frames, frames[1:], frames[2:]):
        for track in sorted(three[0].keys() & three[1].keys() & three[2].keys()):
            yield np.array([frame[track] for frame in three])


def _absolute(record: dict) -> dict[int, np.ndarray]:
    estimates = (record["estimates"][i] for i in measured(record))
    return {one["track_id"]: pose_of(one) for one in estimates}


def _relative(record: dict, objects: Objects) -> dict[int, np.ndarray]:
    poses = {}
    for error in record["errors"]:
        if error["estimate"] is not None and error["mssd_d"] < FOUND:
            estimate = record["estimates"][error["estimate"]]
            pose, true = pose_of(estimate), pose_of(record["truth"][error["truth"]])
            true = nearest_representative(pose, true, objects[error["object_id"]])
            turn, shift = true[:3, :3].T @ pose[:3, :3], pose[:3, 3] - true[:3, 3]
            poses[estimate["track_id"]] = make_pose(turn, shift)
    return poses


def jitter(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scatter (1,) in metres and (1,) in radians of three successive poses (3, 4, 4) about even motion.

    The length of the second difference over the root of 6: of independent noise its root mean square is the
    noise's, and even motion adds nothing. Convention: 0, 3 and 0 mm along one axis give 6 / 2.449 = 2.449 mm.
    """
    places, turns = poses[:, :3, 3], poses[:, :3, :3]
    steps = [to_rotation_vector(first.T @ second) for first, second in itertools.pairwise(turns)]
    bends = places[0] - 2 * places[1] + places[2], steps[1] - steps[0]
    shift, turn = (np.array([np.linalg.norm(bend)]) / np.sqrt(6) for bend in bends)
    return shift, turn


def curves(records: Sequence[dict], objects: Objects) -> dict[str, dict]:
    """Recall over thresholds, and how the covariance's ellipsoids hold what they say; {} without truth."""
    judged = [record for record in records if record["judged"]]
    errors = [(error, record["width"]) for record in judged for error in asked(record)]
    if not errors:
        return {}

    def curve(name: str, limit: float, label: str, in_vga: bool = False) -> dict:
        x = np.linspace(0, limit, 51)
        values = [np.inf if e[name] is None else e[name] * (640 / w if in_vga else 1) for e, w in errors]
        return {"x": x.tolist(), "y": [recall(values, limit) for limit in x], "x_label": label}

    found = mahalanobis(judged, objects)
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
