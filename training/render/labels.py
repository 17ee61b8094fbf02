"""Scene -> what BOP wants to know about each instance: masks, boxes, pixel counts, visible share."""

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


def instance_labels(renderer: Renderer, scene: Scene) -> tuple[list[InstanceLabel], Labels]:
    """Labels of the targets that reach into the picture, in their order, and the label images they come
    from."""
    seen = renderer.labels(scene)
    labels = (_instance(renderer, scene, body, seen.instance == body.label) for body in scene.targets)
    return [label for label in labels if label.pixels_valid], seen


def _instance(renderer: Renderer, scene: Scene, body: Body, visible: np.ndarray) -> InstanceLabel:
    alone = renderer.labels(scene, (body,)).instance > 0
    pixels_all, box = int(alone.sum()), bounding_box(alone)
    if alone[0].any() or alone[-1].any() or alone[:, 0].any() or alone[:, -1].any() or not pixels_all:
        wide = renderer.silhouette(scene, body)
        pixels_all, box = int(wide.sum()), bounding_box(wide, (renderer.width, renderer.height))
    pose = scene.T_camera_world @ body.T_world_body
    return InstanceLabel(
        body.object_id,
        pose,
        alone,
        visible,
        box,
        bounding_box(visible),
        pixels_all,
        int(alone.sum()),
        int(visible.sum()),
    )


def uncovered(renderer: Renderer, scene: Scene, least: float) -> tuple[Scene, list[InstanceLabel], Labels]:
    """The scene, less occluders and then less all clutter, where a target's part in the picture is hidden
    too far."""
    without = (scene.bodies, tuple(b for b in scene.bodies if not b.occluder), scene.targets)
    for bodies in without:
        scene = dataclasses.replace(scene, bodies=bodies)
        instances, seen = instance_labels(renderer, scene)
        if all(i.pixels_visible >= least * i.pixels_valid for i in instances):
            break
    return scene, instances, seen
