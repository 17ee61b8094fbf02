# SPDX-License-Identifier: Apache-2.0
"""The settings of a rendered data set: a frozen dataclass that checks its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Range = tuple[float, float]


@dataclass(frozen=True)
class ViewConfig:
    """Options of `--view object`: one object alone in a square picture."""

    view_px: int = 160
    """Side of the picture, pixels."""
    fill: float = 2 / 3
    """Longer side of the object's box, as a share of the picture's side; it decides the focal length."""
    distance_diameters: Range = (3.0, 12.0)
    """How far the camera is from the object's centre, in diameters of the object; log-uniform."""
    off_axis_deg: float = 20.0
    """Largest angle between the object and the camera's optical axis, as at a photograph's border."""
    view_elevation_deg: Range = (2.0, 88.0)
    """Camera above the horizon, uniform on the sphere."""
    view_roll_deg: float = 20.0
    """Standard deviation of the camera's roll."""

    def __post_init__(self) -> None:
        low, high = self.distance_diameters
        if not 1 <= low <= high:
            raise ValueError(f"ViewConfig.distance_diameters: wanted 1 <= low <= high, found ({low}, {high})")
        low, high = self.view_elevation_deg
        if not -90 <= low <= high <= 90:
            raise ValueError(
                f"ViewConfig.view_elevation_deg: wanted -90 <= low <= high <= 90, found ({low}, {high})"
            )
        for name, least, most in (
            ("view_px", 16, 2048),
            ("fill", 0.05, 0.95),
            ("off_axis_deg", 0, 45),
            ("view_roll_deg", 0, 360),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"ViewConfig.{name}: wanted {least}..{most}, found {value}")


@dataclass(frozen=True)
class RenderConfig:
    """Mesh, camera, scene statistics and file options of a rendered data set.

    Lengths of the mesh file are in `mesh_unit`; pixels for sizes in the image; degrees for angles; all
    `*_probability` and `*_share` values in 0..1.
    """

    mesh: Path | None = None
    """Mesh file (ply, obj, stl), or a folder of several objects, several in a scene: a BOP models folder
    (obj_<id>.ply and models_info.json with the symmetries), or meshes whose file or folder names begin with
    the object's id (003_box/textured.obj). None: the procedural cube of `cube_edge_mm`."""
    mesh_unit: Literal["m", "mm"] = "mm"
    """Unit of the numbers in the mesh file."""
    object_id: int = 1
    """Object id in the data set (models/obj_<id>.ply); ignored for a models folder."""
    symmetries: Path | None = None
    """A models_info.json with the symmetries of `object_id`. None: the mesh has none; the procedural cube has
    its 24 rotations."""
    cube_edge_mm: float = 84.0
    """Edge of the procedural cube, used when no mesh is given."""
    appearance: Literal["own", "random"] = "random"
    """`own`: the mesh's colours or texture. `random`: new pictures on its surface in every image."""
    pictures: Path | None = None
    """Folder of photographs for backgrounds and surfaces, searched recursively. None: procedural only. Leave
    out those that show the object: they would teach that it is background."""
    pictures_split: Literal["all", "train", "val"] = "all"
    """Which photographs: `val` is the held-out 15 % (by a hash of the file name), `train` the rest."""
    distractors: Path | None = None
    """Folder of meshes (ply or obj, in metres) that may lie around as distractors."""

    view: Literal["frame", "object"] = "frame"
    """`frame`: whole pictures with table, clutter and background. `object`: object views, each object alone
    in a small square picture with coverage (RGBA) and depth, to be pasted on photographs."""
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    """Options of `--view object`."""

    width: int = 640
    height: int = 480
    focal_px: Range = (450.0, 750.0)
    principal_jitter_px: float = 20.0
    size_px: Range = (30.0, 300.0)
    """Apparent size of the object: focal length x 0.8 diameter / depth; log-uniform."""
    elevation_deg: Range = (5.0, 85.0)
    """Camera above the table."""
    roll_deg: float = 20.0
    table_probability: float = 0.65
    stand: Literal["any", "upright"] = "any"
    """How objects lie on a table: on any face of their convex hull, or always with the mesh's z axis up."""
    empty_probability: float = 0.10
    """Images without the object."""
    second_probability: float = 0.15
    """Images with a second instance, often touching the first."""
    max_others: int = 4
    """With a models folder: largest number of other objects beside the first."""
    occluder_probability: float = 0.4
    max_distractors: int = 6
    min_visibility: float = 0.3
    """Remove occluders where a smaller share of an instance would be visible."""
    grey_probability: float = 0.3
    effects: bool = True
    """Camera effects: blur, noise, exposure, colour, JPEG artefacts."""

    samples: int = 4
    """Samples per pixel of the colour image (MSAA)."""
    shadows: bool = True
    depth: bool = False
    """Also write depth/ (16 bit, 0.1 mm)."""
    jpeg_quality: int = 92
    images_per_scene: int = 1000

    def __post_init__(self) -> None:
        self._check_view()
        for name, (low, high) in self._ranges().items():
            if not 0 < low <= high:
                raise ValueError(f"RenderConfig.{name}: wanted 0 < low <= high, found ({low}, {high})")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_probability", "_visibility")) and not 0 <= value <= 1:
                raise ValueError(f"RenderConfig.{field.name}: wanted a share in 0..1, found {value}")
        for name in ("width", "height", "images_per_scene", "object_id", "cube_edge_mm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"RenderConfig.{name}: wanted a number > 0, found {getattr(self, name)}")

    def _check_view(self) -> None:
        """Raise ValueError for an option of the other kind of picture: it would have no effect."""
        found: ViewConfig | RenderConfig
        unused: Iterable[dataclasses.Field]
        if self.view == "frame":
            where, found, unused = "ViewConfig", self.views, dataclasses.fields(self.views)
        else:
            names = [f.name for f in dataclasses.fields(self)]
            first, last = names.index("width"), names.index("images_per_scene")
            kept = {"stand"}
            where, found = "RenderConfig", self
            unused = [f for f in dataclasses.fields(self)[first:last] if f.name not in kept]
        for option in unused:
            value = getattr(found, option.name)
            if value != option.default:
                raise ValueError(
                    f"{where}.{option.name}: wanted its default, {option.default}, which --view "
                    f"{self.view} does not use, found {value}"
                )

    def _ranges(self) -> dict[str, Range]:
        return {"focal_px": self.focal_px, "size_px": self.size_px, "elevation_deg": self.elevation_deg}

    @property
    def has_depth(self) -> bool:
        """Whether the data set has depth pictures; object views always do."""
        return self.depth or self.view == "object"

    def to_json(self) -> dict[str, object]:
        """Plain values, paths as text: what is stored beside the data set and compared on resume."""
        values = dataclasses.asdict(self)
        values |= values.pop("views")
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
        }
