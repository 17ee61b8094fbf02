# SPDX-License-Identifier: Apache-2.0
"""Image number -> finished image with its labels: scene, labels, colours, camera effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.render import pictures, shapes
from training.render.config import RenderConfig
from training.render.effects import camera_effects
from training.render.gl import Renderer
from training.render.labels import InstanceLabel, uncovered
from training.render.mesh_files import load_mesh, load_targets
from training.render.sampling import sample_scene
from training.render.scene import Stock, resting_rotations, target_name


@dataclass(frozen=True)
class Rendered:
    """One finished image: rgb (H, W, 3) uint8, depth (H, W) float32 m, K (3, 3), the instances."""

    rgb: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    instances: list[InstanceLabel]


class ImageMaker:
    """Makes the finished image of a number; owns the renderer of one process. A context manager."""

    def __init__(self, config: RenderConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.stock = make_stock(config)
        self.renderer = Renderer(self.stock, config.width, config.height, config.samples, config.shadows)

    def __enter__(self) -> ImageMaker:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.release()

    def __call__(self, index: int) -> Rendered:
        rng = np.random.default_rng([self.seed, index])
        scene = sample_scene(self.config, self.stock, rng)
        scene, instances, seen = uncovered(self.renderer, scene, self.config.min_visibility)
        rgb = self.renderer.image(scene)
        if self.config.effects:
            rgb = camera_effects(rgb, rng, self.config.grey_probability)
        return Rendered(rgb, seen.depth, scene.K, instances)


def make_stock(config: RenderConfig) -> Stock:
    """Load the meshes and photographs that a configuration names."""
    targets = load_targets(config)
    meshes = {target_name(t.object_id): t.mesh for t in targets} | shapes.primitives()
    paths = (
        sorted(p for p in config.distractors.rglob("*") if p.suffix.lower() in (".ply", ".obj"))
        if config.distractors
        else []
    )
    meshes |= {f"user:{path}": load_mesh(path, "m") for path in paths}
    photos = pictures.load_photographs(config.pictures, config.pictures_split)
    upright = config.stand == "upright"
    return Stock(
        meshes,
        photos,
        tuple(f"user:{p}" for p in paths),
        {t.object_id: np.eye(3)[None] if upright else resting_rotations(t.mesh) for t in targets},
    )
