# SPDX-License-Identifier: Apache-2.0
"""The manifest's schema, strict both ways: unknown keys, missing keys without a default and wrong types are
refused by name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from ..core.object_model import CONTINUOUS_STEPS, ObjectModel, expand_symmetries

SCHEMA = 1
FAMILIES = ("keypoint", "dense", "heatmap", "surface")
# A bundle comes from elsewhere: what it asks for in memory and time has limits.
MOST_SIDE = 4096  # pixels of the network's input
MOST_GOLDEN = 2**22  # pixels of the golden sample
MOST_OBJECTS, MOST_KEYPOINTS, MOST_SYMMETRIES = 256, 4096, 4096  # all but objects: of one object
MOST_LINKS, MOST_FILES, MOST_TEXT = 65536, 1024, 4096
LARGEST = 2**53  # of a number that is exact as a float
CALIBRATION = (0, 5)  # lengths: none, or a weight for each term of pipeline.score but the agreement
EDGE_CALIBRATION = 6  # the same with the agreement


class BundleError(ValueError):
    """A bundle that must not be used; the message names the file, the field, what was found and what was
    wanted."""


@dataclass(frozen=True)
class InputSpec:
    """What the network eats: (1, 3, H, W) float32, (pixel / 255 - mean) / std, sides divisible by ``stride``.

    size: height of a crop, pixels. search_size: longer side of the whole frame in a search. margin: a crop's
    sides over the object's box, as in training. aspect: a crop's width over its height; the box is enlarged
    to it. Convention: size 256 with aspect 0.75 is a crop 192 wide and 256 high.
    """

    size: int
    search_size: int
    stride: int
    margin: float
    channels: str
    mean: list[float]
    std: list[float]
    aspect: float = 1.0

    @property
    def width(self) -> int:
        """Width of a crop, pixels."""
        return round(self.size * self.aspect)

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "bgr"):
            raise BundleError(f"input.channels: wanted 'rgb' or 'bgr', found {self.channels!r}")
        if self.stride <= 0:
            raise BundleError(f"input.stride: wanted more than 0, found {self.stride}")
        for name in ("size", "search_size"):
            if getattr(self, name) <= 0 or getattr(self, name) % self.stride:
                raise BundleError(
                    f"input.{name}: wanted a multiple of {self.stride}, found {getattr(self, name)}"
                )
            if getattr(self, name) > MOST_SIDE:
                raise BundleError(f"input.{name}: wanted at most {MOST_SIDE}, found {getattr(self, name)}")
        if not 0 < self.margin <= 100:
            raise BundleError(f"input.margin: wanted more than 0 up to 100, found {self.margin:g}")
        width = self.size * self.aspect
        if (
            not 0 < width <= MOST_SIDE
            or self.width % self.stride
            or abs(width - self.width) > 1e-6 * self.size
        ):
            raise BundleError(
                f"input.aspect: wanted a width that is a multiple of {self.stride}, "
                f"found {self.aspect:g}, which makes {width:g}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BundleError(
                f"input.mean, input.std: wanted 3 numbers each, std > 0, found {self.mean}, {self.std}"
            )


@dataclass(frozen=True)
class NetworkSpec:
    """The network file, the meaning of its outputs, and its cost for one zoomed crop.

    Outputs of the keypoint family: ``scores`` (1, N, C) in [0, 1]; ``offsets`` (1, N, C, K, 2), pixels from
    the cell's centre; and where it says how sure they are ``scales`` (1, N, C), the Laplace scale of their
    error over the object's diameter; cells as in ``core.cells.cell_grid`` for ``strides``. Of the dense
    family: ``mask`` (1, C, h, w) and ``codes`` (1, 16, h, w) in [0, 1]; of the heatmap family: ``heatmaps``
    (1, C, K, h, w), a peak of height 1 at each keypoint. Of the surface family: ``mask`` (1, C, h,
    w) in [0, 1], ``points`` (1, C, 3, h, w) in radii (half diameters) from the centre of the object's box,
    and ``scale`` (1, C, h, w), the Laplace scale of their coordinates in radii. Maps have a value at every
    ``strides[0]``-th pixel.

    object_files: of a surface bundle, by object id, the networks that each look at crops of one object alone
    (C = 1); ``file`` then searches the whole frame for all objects, and looks at those that are not named
    here. Convention: {"5": "object_000005.onnx"}.
    """

    file: str
    outputs: list[str]
    strides: list[int]
    parameters: int
    gflop: float
    object_files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < len(self.strides) <= 16 or min(self.strides) <= 0:
            raise BundleError(f"network.strides: wanted 1 to 16, all above 0, found {self.strides[:17]}")


@dataclass(frozen=True)
class ObjectSpec:
    """One class, metres. symmetries_discrete: 4x4 row-major; symmetries_continuous: [axis, offset] pairs.

    origin: where the object's frame sits, in words.
    """

    id: int
    class_name: str
    diameter: float
    box_center: list[float]
    box_size: list[float]
    keypoints: list[list[float]]
    symmetries_discrete: list[list[list[float]]]
    symmetries_continuous: list[list[list[float]]]
    reference: list[list[float]]
    origin: str

    def __post_init__(self) -> None:
        turns = max(1, CONTINUOUS_STEPS * len(self.symmetries_continuous))
        count = (1 + len(self.symmetries_discrete)) * turns
        for name, found, most in (
            ("keypoints", len(self.keypoints), MOST_KEYPOINTS),
            ("symmetries", count, MOST_SYMMETRIES),
        ):
            if found > most:
                raise BundleError(f"object {self.class_name!r}: {name}: wanted at most {most}, found {found}")
        if not self.class_name.strip() or not self.class_name.isprintable():
            raise BundleError(
                f"object {self.id}: class_name: wanted printable text, found {self.class_name!r}"
            )

    def model(self) -> ObjectModel:
        """The object as the pipeline knows it."""
        own: typing.Any = self  # lists, of which ObjectModel makes arrays
        try:
            symmetries = expand_symmetries(own.symmetries_discrete, own.symmetries_continuous)
            axes = [[a / np.linalg.norm(a), offset] for a, offset in own.symmetries_continuous]
            return ObjectModel(
                self.id,
                self.class_name,
                self.diameter,
                own.box_center,
                own.box_size,
                own.keypoints,
                symmetries,
                own.reference,
                np.reshape(axes, (-1, 2, 3)),
            )
        except (ValueError, np.linalg.LinAlgError) as error:
            raise BundleError(f"objects: {error}") from error


@dataclass(frozen=True)
class PeopleSpec:
    """What a bundle for people shows in place of objects: a skeleton.

    keypoints: K names, in the order of the maps. links: pairs of indices that a drawing joins. flip: pairs
    (left, right) of indices that change places in a mirror. Convention: a face of nose, left_eye, right_eye
    has links [[0, 1], [0, 2]] and flip [[1, 2]].
    """

    keypoints: list[str]
    links: list[list[int]]
    flip: list[list[int]]

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if max(count, len(self.links)) > MOST_LINKS:
            raise BundleError(f"people: wanted at most {MOST_LINKS} keypoints and links, found more")
        if not count or len(set(self.keypoints)) != count:
            wanted = "at least one name, no two equal"
            raise BundleError(f"people.keypoints: wanted {wanted}, found {self.keypoints}")
        for name in ("links", "flip"):
            for pair in getattr(self, name):
                if len(set(pair)) != 2 or len(pair) != 2 or not 0 <= min(pair) <= max(pair) < count:
                    raise BundleError(
                        f"people.{name}: wanted pairs of different indices below {count}, found {pair}"
                    )
        flipped = [index for pair in self.flip for index in pair]
        if len(set(flipped)) != len(flipped):
            raise BundleError(f"people.flip: wanted every keypoint in one pair at most, found {self.flip}")


@dataclass(frozen=True)
class EdgeSpec:
    """The calibration and pose_score of poses that were refined on edges, in place of DecodeSpec's. The
    calibration has one more weight: of the share of model edge points that lie on an edge of the image."""

    pose_score: float
    calibration: list[float]

    def __post_init__(self) -> None:
        if (found := len(self.calibration)) != EDGE_CALIBRATION:
            raise BundleError(f"decode.edges.calibration: wanted {EDGE_CALIBRATION} weights, found {found}")


@dataclass(frozen=True)
class DecodeSpec:
    """What held-out renders decided. cell_score: a cell, pixel or keypoint counts above it.

    pose_score: a pose is kept above it. calibration: weights of the score's terms (``pipeline.score``),
    or empty. covariance_scale, covariance_shared: what turns refinement's covariance into that of the errors,
    see ``core.uncertainty``. vote_scale: by object id, the size of the votes for it over the true one, by
    which they are divided; 1 of objects that are not named. Convention: votes for object 5 that lie 0.94 of
    the true way from their centre have {"5": 0.94}. edges: in place of the first two where poses are refined
    on edges; None: the same.
    """

    cell_score: float
    pose_score: float
    calibration: list[float]
    covariance_scale: float = 1.0
    covariance_shared: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    vote_scale: dict[str, float] = field(default_factory=dict)
    edges: EdgeSpec | None = None

    def __post_init__(self) -> None:
        if len(self.calibration) not in CALIBRATION:
            found = len(self.calibration)
            raise BundleError(f"decode.calibration: wanted {CALIBRATION} weights, found {found}")
        for object_id, scale in self.vote_scale.items():
            if not scale > 0:
                raise BundleError(f"decode.vote_scale.{object_id}: wanted more than 0, found {scale}")
        if not self.covariance_scale > 0:
            raise BundleError(f"decode.covariance_scale: wanted more than 0, found {self.covariance_scale}")
        if len(self.covariance_shared) != 3 or min(self.covariance_shared) < 0:
            shared = self.covariance_shared
            raise BundleError(f"decode.covariance_shared: wanted three numbers of 0 or more, found {shared}")


@dataclass(frozen=True)
class GoldenSpec:
    """The replayed sample: a procedural input of ``seed``, ``height`` x ``width``, and the largest deviation
    allowed.

    tolerance: absolute for scores, pixels for offsets.
    """

    file: str
    seed: int
    height: int
    width: int
    tolerance: float

    def __post_init__(self) -> None:
        if not 0 < self.height * self.width <= MOST_GOLDEN or min(self.height, self.width) <= 0:
            found = f"{self.width}x{self.height}"
            raise BundleError(f"golden: wanted 1 to {MOST_GOLDEN} pixels, found {found}")
        if not 0 <= self.seed < 2**32 or self.tolerance < 0:
            wanted, found = "0 to 2**32 - 1, and 0 or more", f"{self.seed} and {self.tolerance}"
            raise BundleError(f"golden.seed, golden.tolerance: wanted {wanted}, found {found}")


@dataclass(frozen=True)
class TrainingSpec:
    """Provenance: data set, recipe, method, steps, seed, commit of the training code, date, and measured
    metrics."""

    data: str
    recipe: str
    method: str
    steps: int
    seed: int
    commit: str
    date: str
    torch: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The whole contract. files: SHA-256 (hex) of every other file in the bundle. people: in place of
    objects. locator: SHA-256 (hex) of the manifest of the keypoint bundle in the bundle that finds its
    objects, if there is one; that manifest holds the hashes of the locator's files."""

    schema: int
    name: str
    family: str
    input: InputSpec
    network: NetworkSpec
    objects: list[ObjectSpec]
    decode: DecodeSpec
    golden: GoldenSpec
    training: TrainingSpec
    files: dict[str, str]
    people: PeopleSpec | None = None
    locator: str | None = None

    @property
    def needs_regions(self) -> bool:
        """Whether it must be given regions: its network reads a crop about one object, and no locator
        searches the whole frame for it."""
        return self.family in ("dense", "heatmap") and self.locator is None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise BundleError(f"schema: wanted {SCHEMA}, found {self.schema}; export the bundle again")
        if self.family not in FAMILIES:
            raise BundleError(f"family: wanted one of {FAMILIES}, found {self.family!r}")
        self._check_content()
        if self.locator is not None:
            check_may_have_locator(self.family, self.people is not None)
        for stride in self.network.strides:
            if self.input.stride % stride:
                raise BundleError(
                    f"network.strides: wanted divisors of input.stride, {self.input.stride}, found {stride}"
                )
        surfaces = [surface_file(o.id) for o in self.objects] if self.family == "dense" else []
        for name in (self.network.file, *self.network.object_files.values(), self.golden.file, *surfaces):
            if name not in self.files:
                raise BundleError(f"files: no hash for {name!r}")

    def _check_content(self) -> None:
        ids = [o.id for o in self.objects]
        if len(ids) > MOST_OBJECTS or len(self.files) > MOST_FILES:
            found, most = f"{len(ids)} and {len(self.files)}", f"{MOST_OBJECTS} and {MOST_FILES}"
            raise BundleError(f"objects, files: wanted at most {most}, found {found}")
        if unknown := sorted(set(self.decode.vote_scale) - set(map(str, ids))):
            raise BundleError(f"decode.vote_scale: wanted ids of {ids}, found {unknown}")
        if self.network.object_files and self.family != "surface":
            raise BundleError(f"network.object_files: wanted none in the {self.family} family, found some")
        if unknown := sorted(set(self.network.object_files) - set(map(str, ids))):
            raise BundleError(f"network.object_files: wanted ids of {ids}, found {unknown}")
        if self.people is None and (not ids or len(set(ids)) != len(ids)):
            raise BundleError(f"objects: wanted at least one, ids unique, found ids {ids}")
        names = [o.class_name for o in self.objects]
        if len(set(names)) != len(names):  # regions, scales and requests name a class
            raise BundleError(f"objects: wanted class names that differ, found {names}")
        if self.people is not None and ids:
            raise BundleError(f"objects: wanted none in a bundle with people, found ids {ids}")
        if self.people is not None and self.family != "heatmap":
            raise BundleError(f"people: wanted a bundle of the heatmap family, found {self.family!r}")
        if self.family != "keypoint" and len(self.network.strides) != 1:
            found = f"{self.network.strides}"
            raise BundleError(f"network.strides: wanted one of the {self.family} family, found {found}")


def check_may_have_locator(family: str, people: bool) -> None:
    """Raise BundleError for a bundle of a family, or for people, whose objects no locator finds."""
    if people or family == "keypoint":
        found = "one for people" if people else f"one of the {family} family"
        raise BundleError(f"locator: wanted none but in a dense, heatmap or surface bundle, found {found}")


def check_locator(family: str, objects: Collection[int], wanted: Collection[int]) -> None:
    """Raise BundleError for a locator whose family cannot search, or none of whose ``objects``, ids, is
    ``wanted``."""
    if family != "keypoint":
        raise BundleError(f"locator: wanted one of the keypoint family, found {family!r}")
    if not set(objects) & set(wanted):
        raise BundleError(f"locator: wanted one that finds any of the objects {wanted}, found {objects}")


def surface_file(object_id: int) -> str:
    """Name of the file with an object's surface by codes, in a dense bundle: ``points`` (65536, 3) metres."""
    return f"object_{object_id:06d}.npz"


def mesh_file(object_id: int) -> str:
    """Name of the file with an object's mesh, in any bundle that has it: ``vertices`` (V, 3) metres,
    ``triangles`` (F, 3) and ``sharp`` (E, 2) indices, see ``core.mesh``."""
    return f"mesh_{object_id:06d}.npz"


def parse(data: typing.Any, kind: typing.Any = Manifest, where: str = "manifest") -> typing.Any:
    """Return ``data`` (decoded JSON) as ``kind``, or raise BundleError naming the field and both types.

    A record's keys may be absent where its fields have defaults.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:
        return None if data is None else parse(data, args[0], where)
    if dataclasses.is_dataclass(kind):
        return _parse_record(data, kind, where)
    if origin is list:
        _expect(isinstance(data, list), where, "a list", data)
        return [parse(item, args[0], f"{where}[{i}]") for i, item in enumerate(data)]
    if origin is dict:
        _expect(isinstance(data, dict), where, "an object", data)
        return {key: parse(value, args[1], f"{where}.{key}") for key, value in data.items()}
    if kind is float:
        number = isinstance(data, (int, float)) and not isinstance(data, bool)
        _expect(number and abs(data) < LARGEST and np.isfinite(data), where, "a finite number", data)
        return float(data)
    _expect(isinstance(data, kind) and not isinstance(data, bool), where, kind.__name__, data)
    if isinstance(data, int):
        _expect(abs(data) < LARGEST, where, f"an int below {LARGEST}", data)
    if isinstance(data, str):
        _expect(len(data) <= MOST_TEXT, where, f"at most {MOST_TEXT} characters", data)
    return data


def _parse_record(data: typing.Any, kind: typing.Any, where: str) -> typing.Any:
    _expect(isinstance(data, dict), where, "an object", data)
    hints = typing.get_type_hints(kind)
    needed = [f.name for f in dataclasses.fields(kind) if _has_no_default(f)]
    missing = [n for n in needed if n not in data]
    unknown = [n for n in data if n not in hints]
    if missing or unknown:
        raise BundleError(f"{where}: missing keys {missing}, unknown keys {unknown}")
    return kind(**{name: parse(value, hints[name], f"{where}.{name}") for name, value in data.items()})


def _has_no_default(of: dataclasses.Field) -> bool:
    return of.default is dataclasses.MISSING and of.default_factory is dataclasses.MISSING


def _expect(condition: bool, where: str, wanted: str, found: object) -> None:
    if not condition:
        raise BundleError(f"{where}: wanted {wanted}, found {str(found)[:80]!r} ({type(found).__name__})")
