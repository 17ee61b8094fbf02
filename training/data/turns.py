# SPDX-License-Identifier: Apache-2.0
"""Which tile each sample of an endless stream shows: object tiles and wide tiles in a stated share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Turns:
    """Numbers of the tiles that show an object (A,) and of the wide ones (W,). A ``share`` of the samples
    shows wide ones.

    An epoch has A + W samples. Which of them are wide is random, how many is not: after n epochs it is n (A +
    W) share, rounded down. The tiles of each kind are shuffled again for each round. If one kind is missing,
    all samples show the other. Convention: of 3 and 1 tiles with a share of 0.5, two of the first four
    samples show the wide tile, and two show two different object tiles.
    """

    about: np.ndarray
    wide: np.ndarray
    share: float
    seed: int

    def __post_init__(self):
        if not len(self.about) and not len(self.wide):
            raise ValueError("tiles: wanted one with an object to train on or a wide one, found none")

    def number(self, index: int) -> int:
        """Return the number of the tile that sample ``index`` shows."""
        count = len(self.about) + len(self.wide)
        epoch, position = divmod(index, count)
        before = self._wide_before(epoch)
        order = shuffled(count, self.seed, 3, epoch)
        is_wide = order[: position + 1] < self._wide_before(epoch + 1) - before
        searched = before + int(is_wide[:-1].sum())
        if is_wide[-1]:
            return self._in_turn(self.wide, searched, 4)
        return self._in_turn(self.about, index - searched, 0)

    def _wide_before(self, epoch: int) -> int:
        share = self.share if len(self.about) and len(self.wide) else float(len(self.wide) > 0)
        return int(epoch * (len(self.about) + len(self.wide)) * share)

    def _in_turn(self, tiles: np.ndarray, rank: int, stream: int) -> int:
        turn, position = divmod(rank, len(tiles))
        return int(tiles[shuffled(len(tiles), self.seed, stream, turn)[position]])


@lru_cache(maxsize=8)
def shuffled(count: int, *seed: int) -> np.ndarray:
    """Return the numbers below ``count`` (count,) in an order that ``seed`` decides."""
    return np.random.default_rng(seed).permutation(count)
