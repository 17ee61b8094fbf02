"""Targets of the dense family: which pixels see which instance, and which point of it."""

from __future__ import annotations

import numpy as np
import torch

BACKGROUND, UNUSED = -1, -2


def make_dense_targets(
    class_indices: list[int], used: list[bool], tied: list[int], labels: np.ndarray, codes: np.ndarray
) -> dict[str, torch.Tensor]:
    """Return one crop's targets.

    labels (h, w): 1 + the index of the instance that an output pixel sees, 0 for none. codes (R, h, w) of
    each representative; of instance i the first ``tied[i]`` count.

    instance_map (h, w): index of the instance, BACKGROUND, or UNUSED where one is hidden too far to be asked
    for. class_index (I,). code_maps (M, h, w) and map_instance (M,): the codes of every representative.
    """
    instance_map = labels.astype(np.int64) - 1
    instance_map[np.isin(instance_map, [i for i, use in enumerate(used) if not use])] = UNUSED
    maps = [(r, i) for i, count in enumerate(tied) if used[i] for r in range(count)]
    return {
        "instance_map": torch.from_numpy(instance_map),
        "class_index": torch.tensor(class_indices, dtype=torch.int64),
        "code_maps": torch.from_numpy(codes[[r for r, _ in maps]].astype(np.int32)),
        "map_instance": torch.tensor([i for _, i in maps], dtype=torch.int64),
    }


def collate_dense(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack images and instance maps, concatenate the rest, instances counted through. Added: ``map_image``
    (M,) and ``instance_image`` (I,)."""
    counts = torch.tensor([len(s["class_index"]) for s in samples])
    first = counts.cumsum(0) - counts
    maps = [
        torch.where(s["instance_map"] >= 0, s["instance_map"] + f, s["instance_map"])
        for s, f in zip(samples, first)
    ]
    instance_image = torch.repeat_interleave(torch.arange(len(samples)), counts)
    map_instance = torch.cat([s["map_instance"] + f for s, f in zip(samples, first)])
    return {
        "image": torch.stack([s["image"] for s in samples]),
        "instance_map": torch.stack(maps),
        "class_index": torch.cat([s["class_index"] for s in samples]),
        "code_maps": torch.cat([s["code_maps"] for s in samples]),
        "map_instance": map_instance,
        "map_image": instance_image[map_instance],
        "instance_image": instance_image,
    }
