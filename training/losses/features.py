# SPDX-License-Identifier: Apache-2.0
"""FKD: make the student's features like the teacher's, level by level.

Source: Zhang and Ma, Improve Object Detection with Feature-based Knowledge Distillation: Towards Accurate and
Efficient Detectors, ICLR 2021, with the weights of its public code.
"""

from __future__ import annotations

import torch
from torch import nn

from .means import total

TEMPERATURE = 0.5
MASKED, CHANNEL, SPATIAL, RELATION = 7e-5, 4e-3, 4e-3, 7e-5  # the four terms' weights


class NonLocal(nn.Module):
    """Add a weighted sum over all places to each feature (Wang et al. 2018, embedded dot product)."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(width, width // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(width // 2, width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        query, key, value = (f(features).flatten(2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)
        return features + self.out((value @ weights.transpose(1, 2)).unflatten(2, features.shape[2:]))


class FeatureDistillation(nn.Module):
    """The terms of FKD over all levels that both networks have; its convolutions train with the student."""

    def __init__(self, student_width: int, teacher_width: int, levels: int):
        super().__init__()

        def each(make):
            return nn.ModuleList(make() for _ in range(levels))

        self.adapt = each(lambda: nn.Conv2d(student_width, teacher_width, 1))
        self.channel = each(lambda: nn.Linear(student_width, teacher_width))
        self.spatial = each(lambda: nn.Conv2d(1, 1, 3, padding=1))
        self.student_relation = each(lambda: NonLocal(student_width))
        self.teacher_relation = each(lambda: NonLocal(teacher_width))
        self.relation = each(lambda: nn.Conv2d(student_width, teacher_width, 1))

    def forward(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        """student, teacher: levels (B, width, H, W), finest first; no gradient goes to the teacher's.
        Computed in 32 bits, as a mean over the images, where the public code takes the norm of the whole
        batch."""
        with torch.autocast(student[0].device.type, enabled=False):
            pairs = zip(range(len(self.adapt)), student, teacher)
            return total(self._level(level, s.float(), t.detach().float()) for level, s, t in pairs)

    def _level(self, level: int, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        places = (attention(student, 1) + attention(teacher, 1)) / 2  # (B, 1, H, W), detached
        channels = attention(teacher, (2, 3))
        masked = (self.adapt[level](student) - teacher) * (places * channels).sqrt()
        by_channel = self.channel[level](student.mean((2, 3))) - teacher.mean((2, 3))
        by_place = self.spatial[level](student.mean(1, keepdim=True)) - teacher.mean(1, keepdim=True)
        related = self.relation[level](self.student_relation[level](student))
        relation = related - self.teacher_relation[level](teacher)
        parts = (MASKED, masked), (CHANNEL, by_channel), (SPATIAL, by_place), (RELATION, relation)
        return total(weight * part.flatten(1).norm(dim=1).mean() for weight, part in parts)


@torch.no_grad()
def attention(features: torch.Tensor, over) -> torch.Tensor:
    """Softmax, of mean 1, of the mean absolute feature over channels (B, 1, H, W), or over places (B,
    C, 1, 1)."""
    strength = features.float().abs().mean(over, keepdim=True)
    flat = torch.softmax(strength.flatten(1) / TEMPERATURE, 1)
    return (flat * flat.shape[1]).view_as(strength)
