# SPDX-License-Identifier: Apache-2.0
"""The largest distance between two of many points."""

from __future__ import annotations

import numpy as np

FEW = 2000  # points whose distances are all computed: 16 MB
LEAF = 64  # points of a group


def diameter(points: np.ndarray) -> float:
    """Return the largest distance between two of points (N, 3), exact, without a table of all distances.

    Groups of near points bound the distances between their members from above; pairs of groups are looked at
    in the order of these bounds until none can beat the largest distance found. Of points on a ball, which
    are all equally far apart, 164,000 take seconds.
    """
    from scipy.spatial.distance import cdist, pdist

    if len(points) <= FEW:
        return float(pdist(points).max()) if len(points) > 1 else 0.0
    groups = _groups(np.asarray(points, float))
    centres = np.array([(group.min(0) + group.max(0)) / 2 for group in groups])
    radii = np.array([np.linalg.norm(group - c, axis=1).max() for group, c in zip(groups, centres)])
    bounds = cdist(centres, centres) + radii[:, None] + radii
    best = _swept(points)
    first, second = np.nonzero(np.triu(bounds >= best))
    for pair in np.argsort(-bounds[first, second]):
        i, j = first[pair], second[pair]
        if bounds[i, j] < best:
            break
        best = max(best, float(cdist(groups[i], groups[j]).max()))
    return best


def _groups(points: np.ndarray) -> list[np.ndarray]:
    """Halve the points along their longest side until no part has more than LEAF."""
    parts, done = [points], []
    while parts:
        part = parts.pop()
        if len(part) <= LEAF:
            done.append(part)
            continue
        middle = len(part) // 2
        order = np.argpartition(part[:, np.ptp(part, axis=0).argmax()], middle)
        parts += [part[order[:middle]], part[order[middle:]]]
    return done


def _swept(points: np.ndarray) -> float:
    """Return a distance near the largest: from a point to the farthest, from there to the farthest."""
    at, best = points[0], 0.0
    for _ in range(8):
        gaps = np.linalg.norm(points - at, axis=1)
        at, best = points[int(gaps.argmax())], max(best, float(gaps.max()))
    return best
