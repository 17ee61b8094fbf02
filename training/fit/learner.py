# SPDX-License-Identifier: Apache-2.0
"""One run in training: its network and optimizer, one training step, and its files.

Several learners may train side by side on the same batches (``train.train_together``); each ends as it would
alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pose_kd_ros.provenance import write_whole

from ..config import RunConfig, check_same, to_json
from ..families import Distillation, Supervision, family_of, make_network
from ..losses.means import total
from ..models.base import Network, channels_last
from ..models.encoders import load_pretrained, normalise
from . import checkpoint
from .balance import Balance, gradient_ratio, is_taught, watched_features
from .cost import Cost
from .parallel import mean_terms, share_statistics
from .step import losses, weighted
from .teacher import Teacher, TeacherOutputs, check_fingerprints, check_teacher, load_teacher

# Fields in which runs side by side may differ; their networks must agree in what the targets depend on.
PER_RUN_FIELDS = {
    "name",
    "network",
    "weights",
    "distill",
    "online",
    "init",
    "init_part",
    "steps",
    "lr",
    "encoder_lr",
    "average",
    "weight_decay",
    "warmup",
    "schedule",
    "clip",
}
MILESTONES = (0.6, 0.8)  # epochs 90 and 120 of 150


def learning_rate(config: RunConfig, step: int) -> float:
    """Return the rate at ``step``: a linear rise to ``lr`` over the warm-up, then as ``schedule`` says."""
    rise = max(1.0, config.warmup * config.steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    if config.schedule == "milestones":
        return config.lr * 0.1 ** sum(step >= share * config.steps for share in MILESTONES)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, config.steps - rise)))


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Return the fields, with both values, in which two runs differ and may not if they share batches."""
    shared = [f.name for f in dataclasses.fields(RunConfig) if f.name not in PER_RUN_FIELDS]
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in shared]
    for name in ("family", "strides", "classes", "keypoints"):
        ours, theirs = (getattr(run.network, name, None) for run in (one, other))
        pairs.append((f"network.{name}", ours, theirs))
    return [f"{name}: {a} and {b}" for name, a, b in pairs if a != b]


def check_shareable(configs: list[RunConfig]) -> None:
    """Raise ValueError, naming the field and both values, for runs that cannot share their batches."""
    first, names = configs[0], [config.name for config in configs]
    for other in configs[1:]:
        if differ := differences(first, other):
            raise ValueError(
                f"{first.name}, {other.name}: wanted runs that can share batches, "
                f"found different {'; '.join(differ)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"runs side by side: wanted different names, found {names}")


@dataclass
class Learner:
    """A run in training. ``start`` is the step from which it goes on."""

    config: RunConfig
    fabric: Fabric
    network: Network
    optimizer: torch.optim.Optimizer
    distillation: Distillation | None
    teacher_step: int | None
    average: AveragedModel | None = None
    balance: Balance = field(default_factory=lambda: Balance(None, 1))
    start: int = 0
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    """Loss terms of the last step."""
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self):
        self.fingerprints = family_of(self.config).fingerprints(self.config)
        self.logger = TensorBoardLogger(self.config.runs, name=self.config.name, version="")

    def learn(
        self, step: int, images: torch.Tensor, batch: dict[str, torch.Tensor], teachers: TeacherOutputs
    ) -> None:
        """Do one step of the optimizer on a batch with prepared images; time a step that will be logged."""
        if (step + 1) % self.config.log_every:
            self._learn(step, images, batch, teachers, False)
            return
        with self.cost.sample(self.fabric.device, [self.network], [self.optimizer]):
            self._learn(step, images, batch, teachers, True)

    def _learn(self, step: int, images, batch, teachers: TeacherOutputs, watch: bool) -> None:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("share", 1.0) * learning_rate(config, step)
        how = self._supervision(step, teachers, watch)
        with watched_features(self.network) as features:
            outputs = self.network(normalise(images, config.network), with_features=True)
        terms = losses(outputs, batch, self.network, how)
        total = self._balanced(step, terms, how, features)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        # Asking in every step whether the norm is finite would wait for the device in every step.
        norm = self.fabric.clip_gradients(
            self.network, self.optimizer, max_norm=config.clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        assert norm is not None  # Fabric returns it whenever max_norm is given
        self.terms = {name: term.detach() for name, term in terms.items()} | {"norm": norm}

    def _balanced(self, step: int, terms: dict, how: Supervision, features: list) -> torch.Tensor:
        """Return the loss to minimise: the sum of all terms or, in a step that only measures, of the task's.
        Add ``kd_ratio`` to the terms where it is measured or logged."""
        parts, measures = weighted(terms, how.weights), self.balance.measures(step)
        taught = any(is_taught(name) for name in parts)
        if taught and (measures or (how.watch and features)):
            terms["kd_ratio"] = self.fabric.all_reduce(gradient_ratio(parts, features))
        if not (taught and measures):
            return terms["total"]
        self.balance.add(step, terms["kd_ratio"].item())
        return total(part for name, part in parts.items() if not is_taught(name))

    def _supervision(self, step: int, teachers: TeacherOutputs, watch: bool) -> Supervision:
        """Return what the network learns from at a step; a teacher with weight 0 is not run."""
        config = self.config
        share = config.distill.share(step / config.steps) if self.distillation else 0.0
        online = config.online.share(step, config.steps)
        if self.balance.measures(step):
            share, online = float(bool(self.distillation)), 1.0
        share, online = (self.balance.teaches(step) * self.balance.factor * each for each in (share, online))
        weights = config.weights.scaled(share, online)
        distillation = self.distillation if share else None
        outputs = teachers[teacher_folder(config)] if share else None
        return Supervision(weights, distillation, outputs, config.online, watch)

    @torch.no_grad()
    def validation_terms(
        self, images: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return the loss terms of a validation batch."""
        self.network.eval()
        outputs = self.network(normalise(images, self.config.network), with_features=True)
        self.network.train()
        how = Supervision(self.config.weights, online=self.config.online)
        return losses(outputs, batch, self.network, how)

    def report(self, step: int) -> dict[str, float]:
        """Log the last step's named terms and return them."""
        values = self._values(step)
        rate = {"lr": self.optimizer.param_groups[0]["lr"]}
        self.log({f"train/{name}": value for name, value in values.items()} | rate, step)
        return values

    def log(self, values: dict[str, float], step: int) -> None:
        self.logger.log_metrics(values, step)

    def write_settings(self) -> None:
        """Write the run's settings. Call it when the run is ready to start: settings of a run that could not
        start would only disagree with those of the next attempt."""
        path = self.config.folder / "config.json"
        if self.fabric.global_rank == 0 and not path.exists():
            write_whole(path, to_json(self.config))

    def save(self, step: int) -> None:
        """Write the run's state; only the first process does. Raises ValueError if it is not finite."""
        self._values(step)
        if self.fabric.global_rank > 0:
            return
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step}
        if self.average is not None:
            state["average"] = self.average.module.state_dict()
            state["averaged"] = self.average.n_averaged
        if self.balance.wanted is not None:
            state["ratios"] = self.balance.ratios
        state["cost"] = self.cost.figures(step * self.config.batch_size)
        if self.distillation:
            state["teacher_step"] = self.teacher_step
        if self.distillation and self.distillation.features is not None:
            state["features"] = self.distillation.features.state_dict()
        if self.fingerprints:
            state["surfaces"] = self.fingerprints
        checkpoint.save(self.config.folder / "last.ckpt", state)

    def _values(self, step: int) -> dict[str, float]:
        values = {name: term.item() for name, term in mean_terms(self.fabric, self.terms).items()}
        if not math.isfinite(values["norm"]):
            raise ValueError(
                f"{self.config.name}, step {step}: wanted a finite gradient, found norm {values['norm']}; "
                f"last.ckpt is from before; a lower --lr than {self.config.lr} may help"
            )
        return values


def teacher_folder(config: RunConfig) -> Path | None:
    """Return the folder of the run's teacher; None without one."""
    distill = config.distill
    return None if distill.method == "none" or distill.teacher is None else Path(distill.teacher).resolve()


def load_teachers(students: list[RunConfig], fabric: Fabric) -> dict[Path, Teacher]:
    """Return the students' teachers on the run's device, each once, by the folders of their runs.

    Raises ValueError for a teacher that does not fit its student.
    """
    teachers: dict[Path, Teacher] = {}
    for student in students:
        folder = teacher_folder(student)
        if folder is None or student.distill.teacher is None:
            continue
        if folder not in teachers:
            teacher = load_teacher(student.distill.teacher)
            network = channels_last(teacher.network.to(fabric.device))
            teachers[folder] = replace(teacher, network=network, autocast=fabric.autocast)
        check_teacher(teachers[folder], student)
    return teachers


def make_learner(config: RunConfig, fabric: Fabric, teacher: Teacher | None) -> Learner:
    """Return the run as its last checkpoint left it.

    Raises ValueError for a run folder with other settings.
    """
    fabric.seed_everything(config.seed, verbose=False)
    network = share_statistics(channels_last(make_network(config.network)), fabric.device)
    optimizer = torch.optim.AdamW(parameters(network, config), lr=config.lr, weight_decay=config.weight_decay)
    distillation = make_distillation(config, teacher, fabric, optimizer) if teacher else None
    network, optimizer = fabric.setup(network, optimizer)
    step, average = teacher.step if teacher else None, averaged(network, config.average)
    balance = Balance(config.distill.ratio if teacher else config.online.ratio, config.steps)
    learner = Learner(config, fabric, network, optimizer, distillation, step, average, balance)
    learner.start = resume(learner)
    return learner


def make_distillation(
    config: RunConfig, teacher: Teacher, fabric: Fabric, optimizer: torch.optim.Optimizer
) -> Distillation:
    """Return how the run learns from its teacher; FKD's layers are added to the optimizer."""
    torch.manual_seed(config.seed)  # the layers are the same, whatever was built before
    layers = family_of(config).feature_layers(config.distill, teacher.run.network, config.network)
    if layers is None:
        return Distillation(config.distill)
    optimizer.add_param_group({"params": list(layers.parameters())})
    return Distillation(config.distill, fabric.setup_module(layers))


def parameters(network: Network, config: RunConfig) -> list[dict]:
    """Return the optimizer's groups: the encoder, with ``encoder_lr`` times the learning rate, and the
    rest."""
    learning = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    encoder = [p for n, p in learning if n.startswith("backbone.")]
    rest = [p for n, p in learning if not n.startswith("backbone.")]
    groups = {"params": encoder, "share": config.encoder_lr}, {"params": rest, "share": 1.0}
    return [group for group in groups if group["params"]]


def averaged(network: Network, decay: float) -> AveragedModel | None:
    """Return the moving average of the network's weights and statistics; None for a decay of 0."""
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def resume(learner: Learner) -> int:
    """Load the run's last checkpoint, or the weights that it starts from; return the step to go on from."""
    config = learner.config
    config.folder.mkdir(parents=True, exist_ok=True)
    settings, last = config.folder / "config.json", config.folder / "last.ckpt"
    if settings.exists():
        check_same(config, settings.read_text(encoding="utf-8"), config.folder)
    if not last.exists():
        begin(learner)
        return 0
    state = checkpoint.load(last)
    if learner.distillation and state.get("teacher_step") != learner.teacher_step:
        raise ValueError(
            f"{last}: wanted its teacher {config.distill.teacher} at step {state.get('teacher_step')}, "
            f"found it at step {learner.teacher_step}; start a run of another --name"
        )
    check_fingerprints(last, state.get("surfaces", {}), config)
    learner.network.load_state_dict(state["network"])
    if learner.average is not None:
        learner.average.module.load_state_dict(state["average"])
        learner.average.n_averaged.copy_(state["averaged"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if learner.distillation and learner.distillation.features is not None:
        learner.distillation.features.load_state_dict(state["features"])
    learner.balance.ratios += state.get("ratios", [])
    learner.cost = Cost(state.get("cost", {}).get("train_seconds", 0.0))
    return state["step"]


def begin(learner: Learner) -> None:
    """Load the weights that a new run starts from, if any."""
    config = learner.config
    if config.init:
        start_from(learner.network, checkpoint.trained_weights(checkpoint.load(config.init)), config)
    else:
        load_pretrained(config.network, learner.network.backbone)
    learner.average = averaged(learner.network, config.average)


def cost_so_far(folder: Path) -> dict[str, float]:
    """Return the cost of training the run in ``folder`` (``Cost.figures``); empty without a checkpoint."""
    last = folder / "last.ckpt"
    return checkpoint.load(last).get("cost", {}) if last.exists() else {}


def is_of(part: str, name: str) -> bool:
    """Return whether a weight belongs to the part of a network that a run starts from."""
    if part == "trunk":
        return not name.startswith("last.")
    return part == "all" or name.startswith(f"{part}.")


def start_from(network: Network, weights: dict[str, torch.Tensor], config: RunConfig) -> None:
    """Load another run's weights, or a part of them; raises ValueError where they do not fit."""
    wanted = {name for name in network.state_dict() if is_of(config.init_part, name)}
    taken = {name: value for name, value in weights.items() if name in wanted or config.init_part == "all"}
    try:
        if taken.keys() != wanted:  # of a part, the other run may have more than is taken
            raise RuntimeError(f"differing parts: {sorted(taken.keys() ^ wanted)[:4]}")
        network.load_state_dict(taken, strict=config.init_part == "all")
    except RuntimeError as error:
        raise ValueError(
            f"{config.init}: wanted weights of this network ({config.init_part}), found others ({error})"
        ) from error
