"""Object models of a BOP data set: models_info.json read as what the network and the node need to know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries
from pose_kd_ros.core.pose import from_rotation_vector
from pose_kd_ros.evaluation.bop import load_models_info

# A camera 45 degrees above the object's xy plane: most views of a standing object lie well inside the region
# nearest to it, far from the boundaries where a symmetric object's representative changes.
SEEN_FROM_ABOVE = from_rotation_vector((2.356194490192345, 0.0, 0.0))


def load_objects(
    root: Path, names: dict[int, str] | None = None, only: Sequence[int] = ()
) -> list[ObjectModel]:
    """Return the models of ``root``/models/models_info.json, ordered by id; keypoints are the box's
    corners.

    only: ids to keep, all if empty; ValueError for one that is not there.
    """
    path = Path(root) / "models" / "models_info.json"
    infos = load_models_info(path)
    missing = sorted(set(only) - set(infos))
    if missing:
        raise ValueError(f"{path}: no object {', '.join(map(str, missing))}; it has {sorted(infos)}")
    infos = {i: info for i, info in infos.items() if not only or i in only}
    return [_object(i, info, (names or {}).get(i, f"obj_{i:06d}")) for i, info in sorted(infos.items())]


def _object(object_id: int, info, name: str) -> ObjectModel:
    center = info.box_min + info.box_size / 2
    symmetries = expand_symmetries(info.symmetries_discrete, info.symmetries_continuous)
    return ObjectModel(
        object_id,
        name,
        info.diameter_m,
        center,
        info.box_size,
        box_corners(center, info.box_size),
        symmetries,
        SEEN_FROM_ABOVE,
    )
