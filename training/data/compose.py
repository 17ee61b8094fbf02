# SPDX-License-Identifier: Apache-2.0
"""Training crops composed of object views, which are pasted on photographs, beside, behind and before each
other, each under its own light, and then seen by a random camera.

Source: Dwibedi et al., Cut, Paste and Learn, ICCV 2017. A view that is moved, scaled and turned in the
picture is the view of a camera that is turned and zoomed: the object's pose stays exact, and each output
pixel's surface point is computed from the view's depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from pose_kd_ros.core.object_model import ObjectModel, representatives
from pose_kd_ros.core.pose import allocentric, from_rotation_vector, make_pose, transform
from pose_kd_ros.datasets.faults import Faults
from training.render import pictures
from training.render.effects import camera_effects

from .dense_targets import BACKGROUND, UNUSED
from .objects import MAX_TIED
from .paste import blend, photo_part, piece, relit
from .views import View, Views

VIEW_FILL = 2 / 3  # of a view's side: the longer side of the object's box
DRAWN = 200  # procedural pictures, where there are no photographs
FAR = np.array([0, 0, 1e6])  # metres: a camera there aims at every point of the object
FRONT_SIZE, SEARCH_SIZE = (0.55, 1.6), (0.25, 1.1)  # of an object, in sizes of the one a crop is about


@dataclass(frozen=True)
class ComposeConfig:
    """What surrounds the objects of a composed crop."""

    views: bool = False
    """The splits hold object views: compose crops of them. The surface family always does."""
    pictures: Path | None = None
    """Folder of photographs to paste on, which must not show the objects. None: procedural pictures."""

    most_behind: int = 3
    """Largest number of other objects behind the one that a crop is about."""

    most_before: int = 1
    """Largest number of other objects in front of it."""

    most_objects: int = 5
    """Largest number of objects in a crop that stands for the search."""

    most_pieces: int = 4
    """Largest number of pieces of photographs behind the objects."""
    most_covering: int = 2
    """Largest number of pieces of photographs in front of the objects."""
    covered: float = 0.7
    """Share of crops with anything in front of their objects."""
    grey: float = 0.15
    """Share of crops without colour."""
    effects: float = 0.5
    """Strength of the camera's blur, motion and compression; small crops depend on details."""

    val_split: str = "views_val"
    """Split of views to watch losses on, composed with held-out photographs; "" for none."""


@dataclass(frozen=True)
class Pasted:
    """A view in a crop.

    matrix (2, 3): view pixels to crop pixels. turn: radians about the camera's axis. box_size: longer side of
    the object's box, pixels of the crop.
    """

    view: View
    matrix: np.ndarray
    turn: float
    box_size: float

    @property
    def turned(self) -> np.ndarray:
        """The rotation (4, 4) of the camera that the view's turn is."""
        return make_pose(from_rotation_vector([0, 0, self.turn]), np.zeros(3))

    @property
    def pose(self) -> np.ndarray:
        """``T_camera_object`` (4, 4) in the turned camera."""
        return self.turned @ self.view.T_camera_object

    @property
    def K(self) -> np.ndarray:
        """The turned camera's (3, 3): where the crop shows what it sees."""
        return np.r_[self.matrix, [[0, 0, 1]]] @ self.view.K @ self.turned[:3, :3].T


@dataclass(frozen=True)
class Composed:
    """A composed crop, as targets are made of it.

    size: side, pixels. labels (h, w): 1 + the index of the layer that an output pixel sees, 0 for none. grid
    (h, w, 3): places of the output pixels, homogeneous pixels of the crop. layers: back to front. seen:
    output pixels of each before it was covered. about: index of the layer that the crop is about; None for a
    crop that stands for the search. min_visibility: what is seen of a smaller share is not asked for.
    """

    size: int
    labels: np.ndarray
    grid: np.ndarray
    layers: list[Pasted]
    seen: list[int]
    about: int | None
    min_visibility: float

    def visible(self, index: int) -> np.ndarray:
        """Which output pixels (h, w) see a layer."""
        return self.labels == index + 1

    def is_used(self, index: int) -> bool:
        """Whether enough is seen of a layer."""
        return bool(self.visible(index).sum() >= max(1, self.min_visibility * self.seen[index]))


class ComposedTargets(Protocol):
    """What a family's networks learn from a composed crop. stride: of its output's grid."""

    stride: int

    def of_composed(self, crop: Composed, rng: np.random.Generator) -> dict[str, torch.Tensor]: ...

    def collate(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]: ...


class ComposedDataset(Dataset):
    """An endless, seeded stream of composed crops: sample i is the same on every machine and after every
    restart.

    crops: a ``CropConfig``. held_out: use the photographs that training never sees.
    """

    def __init__(
        self,
        views: Views,
        models: Sequence[ObjectModel],
        targets: ComposedTargets,
        crops,
        config: ComposeConfig,
        seed: int,
        held_out: bool = False,
    ):
        self.views, self.models, self.targets = views, list(models), targets
        self.crops, self.config, self.stride = crops, config, targets.stride
        self.seed, self.faults, self.source = seed, Faults(), views.split
        self.class_of = {model.id: index for index, model in enumerate(models)}
        missing = [model.id for model in models if model.id not in views.of_object]
        if missing:
            raise ValueError(
                f"{views.split}: wanted views of objects {missing}, found those of {sorted(views.of_object)}"
            )
        self.ids = sorted(views.of_object)
        self.photographs = load_photographs(config.pictures, held_out)
        self.collate = targets.collate
        side = crops.size // self.stride
        v, u = np.mgrid[:side, :side]
        self.grid = np.stack([u, v, np.ones_like(u)], -1).astype(float)
        self.grid[..., :2] = (
            self.grid[..., :2] + 0.5
        ) * self.stride - 0.5  # crop pixels of the output's centres

    @property
    def count(self) -> int:
        """Number of object views."""
        return len(self.views)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, 1, index))
        pixels = photo_part(self.photographs, self.crops.size, self.crops.size, rng)
        for _ in range(rng.integers(self.config.most_pieces + 1)):
            piece(pixels, self.photographs, rng)
        searching = rng.random() < self.crops.search_share
        layers, about = (self._scattered(rng), None) if searching else self._about(index, rng)
        labels = np.zeros(self.grid.shape[:2], np.uint8)
        seen = []
        for number, layer in enumerate(layers, 1):
            where = self._paste(pixels, layer, rng)
            labels[where] = number
            seen.append(int(where.sum()))
        if rng.random() < self.config.covered:
            for _ in range(rng.integers(self.config.most_covering + 1)):
                window, covered = piece(pixels, self.photographs, rng)
                self._uncover(labels, window, covered)
        pixels = camera_effects(pixels, rng, self.config.grey, self.config.effects)
        crop = Composed(self.crops.size, labels, self.grid, layers, seen, about, self.crops.min_visibility)
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return {"image": image, **self.targets.of_composed(crop, rng)}

    def _about(self, index: int, rng) -> tuple[list[Pasted], int]:
        """Return the layers of a crop about one object, jittered, with others behind and before it, back to
        front; and its place among them."""
        crops = self.crops
        model = self.models[index % len(self.models)]
        size = 1 / (1 + rng.uniform(-1, 1) * crops.scale_jitter)
        box = crops.size / crops.margin
        middle = (crops.size - 1) / 2 + rng.uniform(-1, 1, 2) * crops.shift_jitter * box
        center = self._pasted(self._view(model.id, rng), size, middle, rng)
        behind = [self._other(model.id, rng) for _ in range(rng.integers(self.config.most_behind + 1))]
        covered = rng.random() < self.config.covered
        before = [
            self._other(model.id, rng) for _ in range(rng.integers(self.config.most_before + 1) * covered)
        ]
        back, front = ([each for each in layers if each is not None] for layers in (behind, before))
        return [*back, center, *front], len(back)

    def _scattered(self, rng) -> list[Pasted]:
        """Return the layers of a crop with objects of any size anywhere, as the search of a whole frame shows
        them; back to front."""
        ids = [
            self.ids[rng.integers(len(self.ids))] for _ in range(rng.integers(self.config.most_objects + 1))
        ]
        sizes = np.exp(rng.uniform(*np.log(SEARCH_SIZE), len(ids)))
        return [
            self._pasted(self._view(i, rng), size, self._anywhere(rng), rng) for i, size in zip(ids, sizes)
        ]

    def _other(self, object_id: int, rng) -> Pasted | None:
        other = self.ids[rng.integers(len(self.ids))]
        if other == object_id and len(self.ids) > 1:
            return None
        size = np.exp(rng.uniform(*np.log(FRONT_SIZE)))
        return self._pasted(self._view(other, rng), size, self._anywhere(rng), rng)

    def _view(self, object_id: int, rng) -> View:
        numbers = self.views.of_object[object_id]
        return self.views[numbers[rng.integers(len(numbers))]]

    def _anywhere(self, rng) -> np.ndarray:
        return rng.uniform(-0.1, 1.1, 2) * self.crops.size

    def _pasted(self, view: View, size: float, middle: np.ndarray, rng) -> Pasted:
        """Return the view placed so that the object's box is ``size`` times as large as in a crop about it,
        centred at ``middle``."""
        center, side = self._box(view)
        scale = size * self.crops.size / (self.crops.margin * side)
        turn = np.radians(rng.uniform(-1, 1) * self.crops.roll_deg)
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return Pasted(view, np.c_[linear, middle - linear @ center], turn, scale * side)

    def _box(self, view: View) -> tuple[np.ndarray, float]:
        """Return centre (2,) and longer side, view pixels, of the box that the node cuts its crop about: that
        of the projected corners of the object's box. For clutter, the box of what is seen."""
        if view.object_id not in self.class_of:
            side = len(view.rgba)
            return np.full(2, (side - 1) / 2), VIEW_FILL * side
        corners = (
            transform(view.T_camera_object, self.models[self.class_of[view.object_id]].corners()) @ view.K.T
        )
        corners = corners[:, :2] / corners[:, 2:]
        low, high = corners.min(0), corners.max(0)
        return (low + high) / 2, float((high - low).max())

    def _paste(self, pixels: np.ndarray, layer: Pasted, rng) -> np.ndarray:
        """Draw a layer into ``pixels``; returns which output pixels (h, w) see it."""
        view, size = layer.view, self.crops.size
        ends = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) * [len(view.rgba), len(view.rgba), 1]
        corners = ends @ layer.matrix.T
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, size)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, size)
        if (high - low).min() > 0:
            rgba, matrix = view.rgba, layer.matrix - np.c_[np.zeros((2, 2)), low]
            if np.linalg.det(layer.matrix[:, :2]) < 0.25:  # bilinear would skip pixels
                rgba, matrix = (
                    cv2.resize(rgba, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
                    halved(matrix),
                )
            warped = cv2.warpAffine(rgba, matrix, tuple(int(n) for n in high - low), flags=cv2.INTER_LINEAR)
            color, coverage = np.ascontiguousarray(warped[..., :3]), warped[..., 3]
            window = pixels[low[1] : high[1], low[0] : high[0]]
            blend(window, relit(color, coverage > 127, rng), coverage)
        return depth_at(layer, self.grid)[0] > 0

    def _uncover(self, labels: np.ndarray, window, covered: np.ndarray) -> None:
        """Take the output pixels from the objects whose nearest crop pixels a piece has covered."""
        whole = np.zeros((self.crops.size, self.crops.size), bool)
        whole[window] = covered
        labels[whole[self.stride // 2 :: self.stride, self.stride // 2 :: self.stride]] = 0


def depth_at(layer: Pasted, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth (h, w), metres, that output pixels at ``grid`` (h, w, 3) see of a layer, 0 for none, and their
    places (h, w, 2) in the view."""
    back = cv2.invertAffineTransform(layer.matrix)
    at = grid @ back.T
    nearest = np.rint(at).astype(int)
    inside = ((nearest >= 0) & (nearest < len(layer.view.depth))).all(-1)
    u, v = np.where(inside[..., None], nearest, 0).transpose(2, 0, 1)
    return np.where(inside, layer.view.depth[v, u], 0), at


class SurfaceTargets:
    """Targets of the surface family: of composed crops alone."""

    def __init__(self, models: Sequence[ObjectModel], stride: int):
        self.models, self.stride, self.collate = list(models), stride, collate_surface
        self.class_of = {model.id: index for index, model in enumerate(models)}

    def of_composed(self, crop: Composed, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """instance_map (h, w) int64: index among the instances, BACKGROUND, or UNUSED where one is hidden too
        much to be learnt.

        points (3, h, w): of the surface, in radii from the box's centre. class_index (I,); ties (I, MAX_TIED,
        3, 4): maps a point to that of a tied representative; tied (I, MAX_TIED) bool.
        """
        instance_map = np.full(crop.labels.shape, BACKGROUND, np.int64)
        points = np.zeros((3, *crop.labels.shape), np.float32)
        classes: list[int] = []
        ties, tied = [], []
        for number, layer in enumerate(crop.layers):
            if layer.view.object_id not in self.class_of:  # its views are clutter here
                continue
            where = crop.visible(number)
            if not crop.is_used(number):
                instance_map[where] = UNUSED
                continue
            index = self.class_of[layer.view.object_id]
            instance_map[where] = len(classes)
            points[:, where] = surface_points(layer, self.models[index], crop.grid, where).T
            maps = tied_maps(layer, self.models[index])
            classes.append(index)
            ties.append(np.concatenate([maps, np.repeat(maps[:1], MAX_TIED - len(maps), 0)]))
            tied.append(np.arange(MAX_TIED) < len(maps))
        return {
            "instance_map": torch.from_numpy(instance_map),
            "points": torch.from_numpy(points),
            "class_index": torch.tensor(classes, dtype=torch.int64),
            "ties": torch.from_numpy(np.array(ties, np.float32).reshape(-1, MAX_TIED, 3, 4)),
            "tied": torch.from_numpy(np.array(tied, bool).reshape(-1, MAX_TIED)),
        }


def surface_points(layer: Pasted, model: ObjectModel, grid: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the surface points (P, 3), in radii, that the output pixels ``where`` (h, w) see."""
    depth, at = depth_at(layer, grid)
    K, T = layer.view.K, layer.view.T_camera_object
    rays = np.c_[at[where], np.ones(where.sum())] @ np.linalg.inv(K).T
    return ((rays * depth[where, None] - T[:3, 3]) @ T[:3, :3] - model.box_center) / (model.diameter / 2)


def halved(matrix: np.ndarray) -> np.ndarray:
    """Return the same affine map (2, 3) of a picture that was shrunk to half: its pixel p lies at 2 p +
    0.5."""
    return np.c_[2 * matrix[:, :2], matrix[:, 2] + 0.5 * matrix[:, :2].sum(1)]


def tied_maps(layer: Pasted, model: ObjectModel) -> np.ndarray:
    """Maps (R, 3, 4), of points in radii, from the view's frame to those of its pose's tied
    representatives."""
    if len(model.symmetries) == 1:
        return np.eye(4)[None, :3]
    center, radius = model.box_center, model.diameter / 2
    seen = make_pose(allocentric(layer.pose @ make_pose(np.eye(3), center)), FAR)
    maps = np.linalg.inv(representatives(seen, model)[:MAX_TIED]) @ seen
    R, t = maps[:, :3, :3], maps[:, :3, 3]
    return np.concatenate([R, ((R @ center + t - center) / radius)[..., None]], -1)


def load_photographs(folder: Path | None, held_out: bool) -> list[np.ndarray]:
    """Photographs to train on or the held-out ones; without a folder, procedural pictures."""
    if folder is not None:
        return pictures.load_photographs(folder, "val" if held_out else "train")
    rng = np.random.default_rng(int(held_out))
    return [pictures.picture(rng, [], 256) for _ in range(DRAWN)]


def collate_surface(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack images, instance maps and points; concatenate the rest, instances counted through."""
    counts = torch.tensor([len(s["class_index"]) for s in samples])
    first = counts.cumsum(0) - counts
    maps = [s["instance_map"] for s in samples]
    batch = {name: torch.stack([s[name] for s in samples]) for name in ("image", "points")}
    batch["instance_map"] = torch.stack([torch.where(m >= 0, m + f, m) for m, f in zip(maps, first)])
    return batch | {name: torch.cat([s[name] for s in samples]) for name in ("class_index", "ties", "tied")}
