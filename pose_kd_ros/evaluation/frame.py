# SPDX-License-Identifier: Apache-2.0
"""One image of an evaluation, a line of frames.jsonl: estimates, true poses, and the errors between them.

Everything but TIMES is the same each time on one machine.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache, partial
from typing import Annotated, Any, TypeVar

import numpy as np

from ..core.track import MEASURED

TIMES = ("latency_ms", "stages_ms")  # what differs from run to run
VISIBLE = 0.1  # BOP counts instances of which at least this share is seen


class OutcomeError(ValueError):
    """An evaluation's file is missing or not what it should be; the text names the file and the field."""


Pose = Annotated[np.ndarray, (4, 4)]  # a flat list in JSON
Covariance = Annotated[np.ndarray, (6, 6)]
Box = Annotated[np.ndarray, (4,)]
Intrinsics = Annotated[np.ndarray, (3, 3)]
Made = TypeVar("Made", bound="Record")
LEFT_OUT = {"left_out": True}  # JSON leaves out such a field where it is None


@dataclass(frozen=True, eq=False)
class Record:
    """A dataclass that reads and writes JSON: its fields are the keys. Both ways are checked."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value, shape = getattr(self, one.name), _shape(_hints(type(self))[one.name])
            if value is None or shape is None:
                continue
            array = np.ascontiguousarray(value, float)
            if array.shape != shape:
                name = f"{type(self).__name__}.{one.name}"
                raise OutcomeError(f"{name}: wanted shape {shape}, found {array.shape}")
            object.__setattr__(self, one.name, array)

    def to_json(self) -> dict:
        """Return the record as JSON has it."""
        values = {one: getattr(self, one.name) for one in fields(self)}
        return {
            one.metadata.get("key", one.name): _plain(value)
            for one, value in values.items()
            if value is not None or not one.metadata.get("left_out")
        }

    @classmethod
    def from_json(cls: type[Made], data: Any, where: str) -> Made:
        """Return the record that decoded JSON holds. Raises OutcomeError that begins with ``where``."""
        expect(where, data, dict)
        keys = {one.metadata.get("key", one.name): one for one in fields(cls)}
        needed = {key for key, one in keys.items() if one.default is MISSING}
        if missing := sorted(needed - data.keys()):
            raise OutcomeError(f"{where}: {missing[0]}: wanted a value, found none")
        if unknown := sorted(data.keys() - keys):
            raise OutcomeError(f"{where}: wanted {', '.join(keys)}, found {unknown[0]}, too")
        hints = _hints(cls)
        return cls(
            **{
                one.name: _read(hints[one.name], data[key], f"{where}: {key}")
                for key, one in keys.items()
                if key in data
            }
        )


@dataclass(frozen=True, eq=False)
class Estimate(Record):
    """One estimate.

    track_id: None where images are not followed. state: as of ``core.track.Track``; "new" where images are
    not followed. box: (4,) x0 y0 x1 y1 raw pixels. sigma_px: scatter of the votes, None for a predicted pose.
    consistency_px: how far the corners of its box moved in the image from where its track expected them.
    edge_px, edge_agreement: of the outline, where there is a mesh, see ``shapes``.
    """

    object_id: int
    class_name: str
    track_id: int | None
    state: str
    score: float
    T_camera_object: Pose
    covariance: Covariance
    box: Box | None
    sigma_px: float | None
    consistency_px: float | None
    edge_px: float | None = None
    edge_agreement: float | None = None

    def to_json(self) -> dict:
        """As of other records; without a mesh the two fields of the outline are left out."""
        content = super().to_json()
        if self.edge_agreement is None:
            del content["edge_px"], content["edge_agreement"]
        return content

    @property
    def is_measured(self) -> bool:
        return self.state in MEASURED


@dataclass(frozen=True, eq=False)
class TrueInstance(Record):
    """One object that is there. visib_fract: the share of it that is seen, 0..1."""

    object_id: int
    T_camera_object: Pose
    visib_fract: float


@dataclass(frozen=True, eq=False)
class PoseError(Record):
    """How far a true instance's estimate is off; None without one.

    truth, estimate: places in the frame's lists. ``_d``: over the diameter. mspd_px: pixels of the image
    as it is, not of one 640 wide.
    """

    object_id: int
    truth: int
    estimate: int | None
    mssd_d: float | None = None
    mspd_px: float | None = None
    add_d: float | None = None
    adds_d: float | None = None
    translation_m: float | None = None
    rotation_rad: float | None = None


@dataclass(frozen=True, eq=False)
class Frame(Record):
    """One image.

    number: from 0. stamp_ns: of its header, 0 in data sets. camera: the recording's frame, or scene and image
    ("000002/000003"). K: (3, 3) px. has_truth: whether its true poses are known. errors: in the order of
    ``truth``. vsd: errors (E, G, T) between measured estimates and true poses by object id, see ``vsd``, or
    depth_fault: why there are none; both None without ``--depth``.
    """

    number: int = field(metadata={"key": "frame"})
    stamp_ns: int
    camera: str
    width: int
    height: int
    K: Intrinsics
    latency_ms: float
    stages_ms: dict
    estimates: tuple[Estimate, ...]
    has_truth: bool = field(metadata={"key": "judged"})
    truth: tuple[TrueInstance, ...]
    errors: tuple[PoseError, ...] = ()
    vsd: dict | None = field(default=None, metadata=LEFT_OUT)
    depth_fault: str | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self):
        super().__post_init__()
        for error in self.errors:
            for place, entries in ((error.truth, self.truth), (error.estimate, self.estimates)):
                if place is not None and not 0 <= place < len(entries):
                    wanted = f"wanted a place among {len(entries)}, found {place}"
                    raise OutcomeError(f"frame {self.number}: errors: {wanted}")

    @property
    def measured(self) -> list[int]:
        """Places of the estimates that were measured in this frame."""
        return [place for place, one in enumerate(self.estimates) if one.is_measured]

    @property
    def measured_estimates(self) -> list[Estimate]:
        return [one for one in self.estimates if one.is_measured]

    @property
    def visible_errors(self) -> list[PoseError]:
        """The errors of the instances that count: of which enough is seen."""
        return [one for one in self.errors if self.truth[one.truth].visib_fract >= VISIBLE]

    def found(self, within: float) -> Iterator[tuple[PoseError, Estimate, TrueInstance]]:
        """Yield each error with an MSSD below ``within`` diameters, with what it is between."""
        for one in self.errors:
            if one.estimate is not None and one.mssd_d is not None and one.mssd_d < within:
                yield one, self.estimates[one.estimate], self.truth[one.truth]

    def only(self, object_id: int) -> Frame:
        """Return the frame as if it held one object's estimates and truth alone."""
        estimates = [i for i, one in enumerate(self.estimates) if one.object_id == object_id]
        truth = [i for i, one in enumerate(self.truth) if one.object_id == object_id]
        errors = tuple(
            replace(
                one,
                truth=truth.index(one.truth),
                estimate=None if one.estimate is None else estimates.index(one.estimate),
            )
            for one in self.errors
            if one.object_id == object_id
        )
        return replace(
            self,
            estimates=tuple(self.estimates[i] for i in estimates),
            truth=tuple(self.truth[i] for i in truth),
            errors=errors,
        )


def expect(place: str, value: object, *kinds: type) -> None:
    """Raise OutcomeError unless a value is of one of the kinds; a bool is no number."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise OutcomeError(f"{place}: wanted {wanted}, found {value!r:.60}")


_hints: Callable[[type], dict[str, Any]] = lru_cache(partial(typing.get_type_hints, include_extras=True))


def _shape(hint: Any) -> tuple[int, ...] | None:
    """Return the shape that an array's hint, or one of its alternatives, declares."""
    if typing.get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    alternatives = typing.get_args(hint) if type(None) in typing.get_args(hint) else ()
    return next((shape for one in alternatives if (shape := _shape(one)) is not None), None)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()
    if isinstance(value, tuple):
        return [one.to_json() for one in value]
    return value


def _read(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if type(None) in arguments:
        return None if value is None else _read(arguments[0], value, place)
    if origin is tuple:
        expect(place, value, list)
        return tuple(arguments[0].from_json(one, f"{place}[{i}]") for i, one in enumerate(value))
    if (shape := _shape(hint)) is not None:
        return _array(value, shape, place)
    if hint is float:
        expect(place, value, int, float)
        return float(value)
    expect(place, value, hint)
    return value


def _array(value: Any, shape: tuple[int, ...], place: str) -> np.ndarray:
    expect(place, value, list)
    try:
        return np.array(value, float).reshape(shape)
    except (TypeError, ValueError):
        wanted = f"{int(np.prod(shape))} numbers"
        raise OutcomeError(f"{place}: wanted {wanted}, found {value!r:.60}") from None
