# SPDX-License-Identifier: Apache-2.0
"""From a scene to what BOP records of each instance: masks, boxes, pixel counts, visible share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from training.render.gl import Labels, Renderer
from training.render.scene import Body, Scene


@dataclass(frozen=True)
class InstanceLabel:
    """One target in one image: T_camera_object (4, 4) metres, masks (H, W) bool, boxes (x, y, w, h) px.

    As BOP defines them: `pixels_all` counts the whole silhouette, also outside the picture; `bbox_obj`
    bounds it; `bbox_visib` bounds what is seen, (-1, -1, -1, -1) for nothing; `visible_share` =
    pixels_visible / pixels_all.
    """

    object_id: int
    T_camera_object: np.ndarray
    mask: np.ndarray
    mask_visible: np.ndarray
    bbox_obj: tuple[int, int, int, int]
    bbox_visib: tuple[int, int, int, int]
    pixels_all: int
    pixels_valid: int
    pixels_visible: int

    @property
    def visible_share(self) -> float:
        """Seen part of the silhouette, 0..1."""
        return self.pixels_visible / self.pixels_all if self.pixels_all else 0.0


def bounding_box(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the true pixels, or four times -1.

    Convention: width = last - first (as bop_toolkit writes it): columns 3..7 -> x 3, width 4.
    """
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return (-1, -1, -1, -1)
    x, y = columns[0] - origin[0], rows[0] - origin[1]
    return int(x), int(y), int(columns[-1] - columns[0]), int(rows[-1] - rows[0])


@dataclass(frozen=True)
class Alone:
    """A target as it looks without the rest of the scene: its mask (H, W); its box and its pixel count, both
    of the whole silhouette, also outside the picture."""

    mask: np.ndarray
    bbox: tuple[int, int, int, int]
    pixels: int


def instance_labels(
    renderer: Renderer, scene: Scene, alone: list[Alone] | None = None
) -> tuple[list[InstanceLabel], Labels]:
    """Return the labels of the targets that reach into the picture, in the scene's order, and the label
    images that they come from.

    alone: the result of `targets_alone`, if there is one already.
    """
    seen = renderer.labels(scene)
    alone = targets_alone(renderer, scene) if alone is None else alone
    labels = (_instance(scene, body, a, seen.instance == body.label) for body, a in zip(scene.targets, alone))
    return [label for label in labels if label.pixels_valid], seen


def targets_alone(renderer: Renderer, scene: Scene) -> list[Alone]:
    """Return the ``Alone`` of each target, in the scene's order."""
    return [_alone(renderer, scene, body) for body in scene.targets]


def _alone(renderer: Renderer, scene: Scene, body: Body) -> Alone:
    mask = renderer.alone(scene, body)
    pixels = int(mask.sum())
    if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any() or not pixels:
        wide, origin = renderer.silhouette(scene, body)
        return Alone(mask, bounding_box(wide, origin), int(wide.sum()))
    return Alone(mask, bounding_box(mask), pixels)


def _instance(scene: Scene, body: Body, alone: Alone, visible: np.ndarray) -> InstanceLabel:
    return InstanceLabel(
        body.object_id,
        scene.T_camera_world @ body.T_world_body,
        alone.mask,
        visible,
        alone.bbox,
        bounding_box(visible),
        alone.pixels,
        int(alone.mask.sum()),
        int(visible.sum()),
    )


def uncovered(renderer: Renderer, scene: Scene, least: float) -> tuple[Scene, list[InstanceLabel], Labels]:
    """Return the scene; without its occluders, and then without all clutter, if too little of a target is
    visible."""
    without = (scene.bodies, tuple(b for b in scene.bodies if not b.occluder), scene.targets)
    alone = targets_alone(renderer, scene)
    for bodies in without:
        scene = dataclasses.replace(scene, bodies=bodies)
        instances, seen = instance_labels(renderer, scene, alone)
        if all(i.pixels_visible >= least * i.pixels_valid for i in instances):
            break
    return scene, instances, seen
