# SPDX-License-Identifier: Apache-2.0
"""The verbs of ``python -m training``: one dataclass each. Its fields are the options, its call runs it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from .render.config import RenderConfig

TRUNK = Path(__file__).parent / "weights" / "joint_ycb" / "last.ckpt"  # of six YCB objects; docs/training.md


@dataclass(frozen=True)
class Render:
    """Render a BOP data set from a mesh, or from the procedural cube if no mesh is given.

    Example: python -m training render --out data/cube --split train --count 10000 --workers 2
    """

    out: Path
    """Folder of the data set; models/ and the folder of the split are created in it."""
    split: str = "train"
    """Name of the split, a folder in --out: train, val, ..."""
    count: int = 10_000
    """Images in the split. A run that was stopped goes on and keeps its complete scenes."""
    seed: int = 1
    """Image i depends on the settings, the seed and i only; give each split another seed."""
    workers: int = 1
    """Processes; with more than one, each has one thread. 0 renders in the command's process; if the graphics
    driver then aborts, the command ends without naming the image."""
    shard: str = "0/1"
    """Part i/n of the scenes, in a separate folder; `merge OUT/SPLIT` combines the n parts."""
    render: tyro.conf.OmitArgPrefixes[RenderConfig] = field(default_factory=RenderConfig)

    def __call__(self) -> None:
        from .render.dataset import render_dataset
        from .render.shards import Shard

        shard = Shard.parse(self.shard)
        part = self.count, self.seed, self.workers, (shard.index, shard.count)
        try:
            render_dataset(self.render, self.out, self.split, *part)
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on where this one was") from None


@dataclass(frozen=True)
class Make:
    """Make a bundle from a mesh in the time given: render, train, export, evaluate. Ctrl-C stops it; the same
    command goes on.

    Example: python -m training make --mesh part.ply --out bundles/part --hours 8
    """

    mesh: Path
    """Mesh file (ply, obj, stl), or a BOP models folder for several objects in one network."""
    out: Path
    """The bundle's folder; its name is the bundle's name and, of one object, the class name."""
    hours: float = 8.0
    """Time for everything, on this machine with its present load."""
    mesh_unit: Literal["m", "mm"] = "mm"
    """Unit of the numbers in the mesh file."""
    symmetries: Path | None = None
    """A models_info.json with the symmetries of object 1. None: it has no symmetry."""
    appearance: Literal["own", "random"] = "own"
    """``own``: the mesh has its real colours or texture. ``random``: the appearance is unknown."""
    stand: Literal["any", "upright"] = "any"
    """``upright``: the object always stands with its z axis up and is seen from above."""
    pictures: Path | None = None
    """Folder of photographs for backgrounds, which must not show the object. None: procedural pictures."""
    names: dict[int, str] = field(default_factory=dict)
    """Class names of several objects by id: --names 1 cup 2 plate."""
    init: Path | None = TRUNK
    """Checkpoint (last.ckpt) of the surface run whose encoder and decoder are the start; by default of six
    YCB objects. None: ImageNet weights and an untrained decoder."""
    work: Path | None = None
    """Folder of the data, the run and the evaluation (default: runs/make_<name>)."""
    seed: int = 0

    @property
    def folder(self) -> Path:
        return self.work or Path("runs") / f"make_{self.out.name}"

    @property
    def render(self) -> RenderConfig:
        """Return the settings of the held-out frames."""
        return RenderConfig(
            mesh=self.mesh,
            mesh_unit=self.mesh_unit,
            symmetries=self.symmetries,
            appearance=self.appearance,
            stand=self.stand,
            pictures=self.pictures,
            pictures_split="val" if self.pictures else "all",
        )

    @property
    def views(self) -> RenderConfig:
        """Return the settings of the object views to train on."""
        return replace(self.render, view="object", pictures_split="train" if self.pictures else "all")

    def __call__(self) -> None:
        from .export.make import make
        from .fit.train import Stopped

        try:
            print(make(self))
        except (KeyboardInterrupt, Stopped):
            print("stopped; the same command goes on where this one was", file=sys.stderr)
            raise SystemExit(130) from None


@dataclass(frozen=True)
class Export:
    """Turn a run's last checkpoint into a bundle that the node runs.

    Example: python -m training export runs/student_cube_none --out bundles/mine --names 1 mine
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run: it holds config.json and last.ckpt."""
    out: Path
    """The bundle's folder; its name is the bundle's name."""
    names: dict[int, str] = field(default_factory=dict)
    """Class name of each object id, as TF frames and detections show it: --names 1 cube."""
    search_size: int = 320
    """Longer side, pixels, of the whole frame when nothing is tracked. A larger one finds smaller objects and
    costs more. It is rounded up to a multiple of the network's largest stride."""
    val_images: int = 2000
    """Images of the run's validation split: the first half chooses pose_score, the second half gives the
    manifest's figures. With 0, or without a val_split, pose_score is 0 and every pose is kept."""
    locator: Path | None = None
    """A keypoint bundle, or a run of the keypoint family, that finds the objects for a dense or heatmap run,
    which does not search. It goes into the bundle; a run is exported with the same settings."""
    object_runs: tuple[Path, ...] = ()
    """For a surface run of several objects: folders of surface runs of single objects. In the bundle, their
    networks measure these objects, and the joint network searches the whole frame."""
    mesh: Path | None = None
    """Mesh to refine poses on the robot (see add-mesh): a file, a folder, or the word box."""
    mesh_unit: Literal["m", "mm"] = "mm"
    """Unit of the numbers in the mesh file."""

    def __call__(self) -> None:
        from .export.run import export_with_locator

        how = self.names, self.search_size, self.val_images, self.locator, self.object_runs
        print(export_with_locator(self.run, self.out, *how))
        if self.mesh:
            AddMesh(self.out, self.mesh, self.mesh_unit)()


@dataclass(frozen=True)
class AddMesh:
    """Add small meshes to a bundle, in place, so that the robot can refine poses on image edges.

    Example: python -m training add-mesh bundles/mine --mesh part.ply
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    mesh: Path
    """Mesh file (ply, obj, stl) of the only object; a folder of meshes whose names begin with the objects'
    ids; or the word box, for objects that fill their boxes."""
    mesh_unit: Literal["m", "mm"] = "mm"
    """Unit of the numbers in the mesh file."""
    faces: int = 1000
    """Largest number of triangles of each mesh. More of them cost more time in each frame."""

    def __call__(self) -> None:
        from pose_kd_ros.bundle.store import open_bundle

        from .export.mesh import with_meshes

        bundle = with_meshes(open_bundle(self.bundle), self.mesh, self.mesh_unit, self.faces)
        meshes = {model.name: bundle.mesh(model.id) for model in bundle.objects}
        counts = {name: len(mesh.triangles) for name, mesh in meshes.items() if mesh is not None}
        print(f"{bundle.folder}: triangles {counts}")


@dataclass(frozen=True)
class Evaluate:
    """Measure a bundle on a BOP split through the robot's own estimator.

    Example: python -m training evaluate bundles/cube --data data/cube/val
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    data: Path
    """Split folder of a BOP data set; meshes and models_info.json are in ../models_eval or ../models."""
    limit: int = 0
    """Only the first N images; 0 for all."""
    out: Path | None = None
    """Write the figures there as JSON too."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with an image that is missing, damaged or wrongly described: stop and name it, or skip
    and count it."""
    given_boxes: bool = False
    """Estimate in the true boxes instead of searching the frame; the figures say so."""

    def __call__(self) -> None:
        from .measure.evaluate import evaluate_command

        evaluate_command(self.bundle, self.data, self.limit, self.out, self.faults, self.given_boxes)


@dataclass(frozen=True)
class Calibrate:
    """Fit a bundle's scores, threshold and covariances again, on held-out images, and replace the bundle.

    Example: python -m training calibrate bundles/mine --data data/mine/val
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    data: Path
    """Split folder of a BOP data set that was not trained on. The first half of it chooses, the second half
    gives the manifest's figures."""
    limit: int = 2000
    """Only the first N images."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with an image that is missing, damaged or wrongly described: stop and name it, or skip
    and count it."""

    def __call__(self) -> None:
        from .export.run import calibrate_bundle

        print(calibrate_bundle(self.bundle, self.data, self.limit, self.faults))


@dataclass(frozen=True)
class EvaluatePeople:
    """Measure a bundle for people on files of COCO or MPII, in the boxes that they give.

    Example: python -m training evaluate-people BUNDLE --kind coco --annotations VAL.json --images val2017
    """

    bundle: tyro.conf.Positional[Path]
    """Folder of the bundle."""
    kind: Literal["coco", "mpii"]
    annotations: Path
    """person_keypoints_val2017.json, or MPII's valid.json."""
    images: Path
    """Folder of the pictures."""
    heads: Path | None = None
    """MPII: mpii_human_pose_v1_u12_1.mat with the head boxes; without it PCKh cannot be compared
    with published figures."""
    detections: Path | None = None
    """COCO: boxes of a detector (image_id, category_id, bbox, score), instead of the annotated ones."""
    suppress: float | None = None
    """COCO with detections: of people who are more similar than this (published: 0.9), keep only the best."""
    flip_test: bool = True
    """Average the maps with those of the mirrored picture."""
    out: Path | None = None
    """Write the figures there as JSON too."""
    faults: Literal["refuse", "skip"] = "refuse"
    """What to do with missing or damaged pictures and entries: stop and name them, or skip and count them."""

    def __call__(self) -> None:
        from .measure.people import evaluate_people_command

        files = self.bundle, self.kind, self.annotations, self.images, self.heads, self.detections
        evaluate_people_command(*files, self.suppress, self.flip_test, self.out, self.faults)


@dataclass(frozen=True)
class Merge:
    """Merge the shards that render has made to the split that one run would have made.

    Example: python -m training merge data/cube/train
    """

    split: tyro.conf.Positional[Path]
    """The split's folder, without .shard-i-of-n."""

    def __call__(self) -> None:
        from .render.shards import merge

        print(merge(self.split))
