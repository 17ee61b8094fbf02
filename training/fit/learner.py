"""One run in training: its network and optimizer, what it does with a batch, and what it keeps on disk.

Several may train side by side on the same batches (``train.train_together``); each ends as it would alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config import RunConfig, check_same, to_json
from ..models.lite import SCALES, load_imagenet
from ..models.network import make_network, normalise
from ..render.files import write_whole
from . import checkpoint
from .cost import Cost
from .parallel import share_statistics
from .step import losses
from .teacher import (
    Distillation,
    Taught,
    Teacher,
    Told,
    check_like,
    check_surfaces,
    check_teacher,
    load_teacher,
    surfaces_of,
    teaching,
)

OWN = {"name", "network", "weights", "distill", "init", "init_part"} | {
    "steps",
    "lr",
    "weight_decay",
    "warmup",
    "clip",
    "schedule",
    "online",
    "encoder_lr",
    "average",
}  # fields in which runs side by side may differ; the cells of their networks may not, the targets are theirs

MILESTONES = (0.6, 0.8)  # epochs 90 and 120 of 150


def learning_rate(config: RunConfig, step: int) -> float:
    """At ``step``: a linear rise to ``lr`` over the warm-up, then as ``schedule`` says."""
    rise = max(1.0, config.warmup * config.steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    if config.schedule == "milestones":
        return config.lr * 0.1 ** sum(step >= share * config.steps for share in MILESTONES)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, config.steps - rise)))


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Fields, with both values, in which two runs differ and may not if they are to share their batches."""
    shared = [f.name for f in dataclasses.fields(RunConfig) if f.name not in OWN]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in shared]
    for name in ("family", "strides", "classes", "keypoints"):
        pairs.append((f"network.{name}", *(getattr(run.network, name, None) for run in (one, other))))
    return [f"{name}: {a} and {b}" for name, a, b in pairs if a != b]


def check_shareable(configs: list[RunConfig]) -> None:
    """Raise ValueError, naming the field and both values, for runs that cannot share their batches."""
    first = configs[0]
    for other in configs[1:]:
        if differ := differences(first, other):
            raise ValueError(
                f"{first.name} and {other.name} cannot train side by side; they differ in {'; '.join(differ)}"
            )
    if len({config.name for config in configs}) < len(configs):
        raise ValueError(f"runs side by side want names of their own: {[c.name for c in configs]}")


@dataclass
class Learner:
    """A run in training.

    ``start`` is the step it goes on from.
    """

    config: RunConfig
    fabric: Fabric
    network: nn.Module
    optimizer: torch.optim.Optimizer
    distillation: Distillation | None
    teacher_step: int | None
    average: AveragedModel | None = None
    start: int = 0
    terms: dict[str, torch.Tensor] = field(default_factory=dict)  # the last step's
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self):
        self.folder = self.config.folder.resolve()  # by which students know it as their teacher
        self.teacher = teacher_folder(self.config)
        self.surfaces = surfaces_of(self.config)
        self.logger = TensorBoardLogger(self.config.runs, name=self.config.name, version="")

    def learn(self, step: int, images: torch.Tensor, batch: dict[str, torch.Tensor], told: Told) -> Taught:
        """One step of the optimizer on a batch whose images are prepared; returns what the network would
        teach.

        A step that will be logged is timed.
        """
        if (step + 1) % self.config.log_every:
            return self._learn(step, images, batch, told, False)
        with self.cost.sample(self.fabric.device, [self.network], [self.optimizer]):
            return self._learn(step, images, batch, told, True)

    def _learn(self, step: int, images, batch: dict[str, torch.Tensor], told: Told, watch: bool) -> Taught:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("share", 1.0) * learning_rate(config, step)
        share = config.distill.share(step / config.steps) if self.distillation else 0.0
        weights = config.weights.taught(share, config.online.share(step, config.steps))
        taught = (self.distillation, told[self.teacher]) if share else ()
        outputs = self.network(normalise(images, config.network), with_features=True)
        how = {"online": config.online, "watch": watch}
        terms = losses(outputs, batch, self.network, weights, *taught, **how)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms["total"])
        # Asking in every step whether the norm is finite would wait for the device in every step.
        norm = self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=config.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.terms = {name: term.detach() for name, term in terms.items()} | {"norm": norm}
        return teaching(outputs)

    @torch.no_grad()
    def judged(self, images: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss terms of a batch it does not learn from."""
        self.network.eval()
        outputs = self.network(normalise(images, self.config.network), with_features=True)
        self.network.train()
        return losses(outputs, batch, self.network, self.config.weights, online=self.config.online)

    def report(self, step: int) -> dict[str, float]:
        """Log the last step's named terms and return them."""
        values = self._values(step)
        self.log(
            {f"train/{name}": value for name, value in values.items()}
            | {"lr": self.optimizer.param_groups[0]["lr"]},
            step,
        )
        return values

    def log(self, values: dict[str, float], step: int) -> None:
        self.logger.log_metrics(values, step)

    def keep_settings(self) -> None:
        """Write what the run is, once everything is there to begin: a run that cannot start leaves nothing to
        disagree with."""
        kept = self.config.folder / "config.json"
        if self.fabric.global_rank == 0 and not kept.exists():
            write_whole(kept, to_json(self.config))

    def save(self, step: int) -> None:
        """Write the run's state; only the first process does.

        Raises ValueError rather than keep what is not finite.
        """
        self._values(step)
        if self.fabric.global_rank > 0:
            return
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self.average is not None:
            state["average"] = self.average.module.state_dict()
            state["averaged"] = self.average.n_averaged
        state["cost"] = self.cost.figures(step * self.config.batch_size)
        if self.distillation:
            state["teacher_step"] = self.teacher_step
        if self.distillation and self.distillation.features is not None:
            state["features"] = self.distillation.features.state_dict()
        if self.surfaces:
            state["surfaces"] = self.surfaces
        checkpoint.save(self.config.folder / "last.ckpt", state)

    def _values(self, step: int) -> dict[str, float]:
        values = {name: term.item() for name, term in self.fabric.all_reduce(self.terms).items()}
        if not math.isfinite(values["norm"]):
            raise ValueError(
                f"{self.config.name}: gradient of norm {values['norm']} at or before step {step}; "
                f"last.ckpt is from before; a lower --lr than {self.config.lr} may help"
            )
        return values


def teacher_folder(config: RunConfig) -> Path | None:
    """The folder of the run's teacher, as ``Told`` knows it; None without one."""
    return None if config.distill.method == "none" else Path(config.distill.teacher).resolve()


def make_learners(configs: list[RunConfig], fabric: Fabric) -> tuple[list[Learner], dict[Path, Teacher]]:
    """Return the runs as their checkpoints left them, those that teach others first, and all teachers by
    their folders.

    Raises ValueError for a teacher that will not do, and for a run folder with other settings.
    """
    among = {config.folder.resolve(): config for config in configs}
    teachers = frozen_teachers([c for c in configs if teacher_folder(c) not in among], fabric)
    taught_by = {teacher_folder(config) for config in configs}
    learners = [
        _make_learner(
            config, fabric, teachers.get(teacher_folder(config)) or among.get(teacher_folder(config))
        )
        for config in sorted(configs, key=lambda c: c.folder.resolve() not in taught_by)
    ]
    for learner in learners:
        if learner.folder in taught_by:
            teachers[learner.folder] = Teacher(learner.network, learner.config)
    for learner in learners:
        _check_caught_up(learner, next((t for t in learners if t.folder == learner.teacher), None))
    return learners, teachers


def frozen_teachers(students: list[RunConfig], fabric: Fabric) -> dict[Path, Teacher]:
    """The students' teachers from disk, on the run's device: each once, however many it teaches."""
    teachers: dict[Path, Teacher] = {}
    for student in students:
        folder = teacher_folder(student)
        if folder is not None and folder not in teachers:
            teacher = load_teacher(student.distill.teacher)
            network = teacher.network.to(fabric.device, memory_format=torch.channels_last)
            teachers[folder] = replace(teacher, network=network, autocast=fabric.autocast)
        if folder is not None:
            check_teacher(teachers[folder], student)
    return teachers


def _make_learner(config: RunConfig, fabric: Fabric, teacher: Teacher | RunConfig | None) -> Learner:
    """Teacher: one from disk, or the run of one that is trained along."""
    along = isinstance(teacher, RunConfig)
    fabric.seed_everything(config.seed, verbose=False)
    network = make_network(config.network).to(memory_format=torch.channels_last)
    network = share_statistics(network, fabric.device)
    optimizer = torch.optim.AdamW(parameters(network, config), lr=config.lr, weight_decay=config.weight_decay)
    distillation = None
    if teacher is not None:
        run = teacher if along else teacher.run
        if along:
            check_like(run, config)
        torch.manual_seed(config.seed)  # whatever else was made in the meantime
        distillation = Distillation.of(config.distill, run.network, config.network)
    if distillation and distillation.features is not None:
        optimizer.add_param_group({"params": list(distillation.features.parameters())})
        distillation = replace(distillation, features=fabric.setup_module(distillation.features))
    network, optimizer = fabric.setup(network, optimizer)
    step = None if along or teacher is None else teacher.step
    average = averaged(network, config.average)
    learner = Learner(config, fabric, network, optimizer, distillation, step, average)
    learner.start = resume(learner)
    return learner


def parameters(network: nn.Module, config: RunConfig) -> list[dict]:
    """The optimizer's groups: the encoder, whose learning rate is ``encoder_lr`` times the others', and the
    rest."""
    learning = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    encoder = [p for n, p in learning if n.startswith("backbone.")]
    rest = [p for n, p in learning if not n.startswith("backbone.")]
    groups = {"params": encoder, "share": config.encoder_lr}, {"params": rest, "share": 1.0}
    return [group for group in groups if group["params"]]


def averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    """The moving average of the network's weights and statistics; None for a decay of 0."""
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _check_caught_up(student: Learner, teacher: Learner | None) -> None:
    """A teacher that is trained along cannot go back to what it said when the student was where it is now."""
    if teacher and student.start < min(teacher.start, student.config.steps, teacher.config.steps):
        raise ValueError(
            f"{student.config.name} is at step {student.start}, but its teacher, which is trained along, at "
            f"{teacher.start} already; remove both folders or take other names"
        )


def resume(learner: Learner) -> int:
    """Load the run's last checkpoint, else the weights it starts from, if any; return the step to go on
    from."""
    config = learner.config
    config.folder.mkdir(parents=True, exist_ok=True)
    kept, last = config.folder / "config.json", config.folder / "last.ckpt"
    if kept.exists():
        check_same(config, kept.read_text(encoding="utf-8"), config.folder)
    if not last.exists():
        if config.init:
            start_from(learner.network, trained_weights(checkpoint.load(config.init)), config)
        elif getattr(config.network, "pretrained", False) and config.network.backbone in SCALES:
            load_imagenet(learner.network.backbone, config.network.backbone)
        if learner.average is not None:
            learner.average = averaged(learner.network, config.average)
        return 0
    state = checkpoint.load(last)
    if learner.distillation and state.get("teacher_step") != learner.teacher_step:
        raise ValueError(
            f"{last}: its teacher had been trained to step {state.get('teacher_step')}, "
            f"{config.distill.teacher} is at {learner.teacher_step} now; start a run of another --name"
        )
    check_surfaces(last, state.get("surfaces", {}), config)
    learner.network.load_state_dict(state["network"])
    if learner.average is not None:
        learner.average.module.load_state_dict(state["average"])
        learner.average.n_averaged.copy_(state["averaged"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if learner.distillation and learner.distillation.features is not None:
        learner.distillation.features.load_state_dict(state["features"])
    learner.cost = Cost(state.get("cost", {}).get("train_seconds", 0.0))
    return state["step"]


def cost_so_far(folder: Path) -> dict[str, float]:
    """What the run in ``folder`` has taken to train (``Cost.figures``); nothing for one without a
    checkpoint."""
    last = folder / "last.ckpt"
    return checkpoint.load(last).get("cost", {}) if last.exists() else {}


def trained_weights(state: dict) -> dict[str, torch.Tensor]:
    """What a checkpoint's run has learnt: the moving average of its weights where it keeps one."""
    return state.get("average", state["network"])


def is_of(part: str, name: str) -> bool:
    """Whether a weight's name belongs to the part of a network that a run starts from."""
    if part == "trunk":
        return not name.startswith("last.")
    return part == "all" or name.startswith(f"{part}.")


def start_from(network: nn.Module, weights: dict[str, torch.Tensor], config: RunConfig) -> None:
    """Load another run's weights, or those of its backbone; raises ValueError where they do not fit."""
    wanted = {name for name in network.state_dict() if is_of(config.init_part, name)}
    taken = {name: value for name, value in weights.items() if name in wanted or config.init_part == "all"}
    try:
        if taken.keys() != wanted:  # of a part, the other run may have more
            raise RuntimeError(f"differing parts: {sorted(taken.keys() ^ wanted)[:4]}")
        network.load_state_dict(taken, strict=config.init_part == "all")
    except RuntimeError as error:
        raise ValueError(f"{config.init}: not weights of this {config.init_part} ({error})") from error
