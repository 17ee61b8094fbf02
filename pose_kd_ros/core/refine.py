# SPDX-License-Identifier: Apache-2.0
"""Robust refinement of a pose on its votes, and how sure of it one may be.

Convention: a small change (vx, vy, vz, wx, wy, wz) moves T_camera_object = [R t] to [exp(w) R, t + v], in
metres and radians: rotations about the camera's axes through the object's origin, in the order of
geometry_msgs/PoseWithCovariance. A pose sure to 1 mm sideways, 1 cm in depth and 0.01 rad about each axis has
the covariance diag(1e-6, 1e-6, 1e-4, 1e-4, 1e-4, 1e-4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .pose import from_rotation_vector, make_pose, project_to_so3
from .predictions import Correspondences, distinct, finite_rows

SIGMA_FLOOR = 0.25  # pixels: camera, calibration and network together are not better than this
FEW = 500  # different points that a pose is refined on at once
LONGEST = 2.5  # times: a step is not lengthened by more
CONVERGED = 1e-4  # metres and radians: a last step far below what votes can tell
MOST_INDEPENDENT = 64  # points: neighbouring pixels of a dense map err alike (assumed, not measured)


@dataclass(frozen=True)
class RefinedPose:
    """pose: ``T_camera_object`` (4, 4). covariance: (6, 6) by this file's convention. inliers: (M,) bool.

    sigma_px: one vote's noise, one component, pixels of the full image, from the median residual; of votes
    with covariances that of one of median size.
    """

    pose: np.ndarray
    covariance: np.ndarray
    inliers: np.ndarray
    sigma_px: float


def refine_pose(
    pose: ArrayLike,
    correspondences: Correspondences,
    K: np.ndarray,
    threshold_px: float = 5.0,
    iterations: int = 5,
) -> RefinedPose | None:
    """Minimise the robust reprojection error from ``T_camera_object`` (4, 4); None if votes do not hold it.

    K: (3, 3). threshold_px: each step leaves out the votes farther away. Each step is Gauss-Newton on votes
    reweighted by Geman and McClure's loss, whose width is three times the noise (see ``noise``); Aitken's
    rule lengthens the steps (see ``_relaxation``). With the many pixels of a dense map, iterate on a
    subsample first, then run two steps on all points. Votes with covariances are whitened
    (``Correspondences.whitening``), and each is one observation.
    """
    image, points, K = (np.asarray(a, float) for a in (correspondences.image, correspondences.object, K))
    finite = finite_rows(image, points, correspondences.weight)
    weight, pose = np.where(finite, correspondences.weight, 0.0), np.array(pose, float)
    image = np.where(finite[:, None], image, 0.0)
    whitening = correspondences.whitening(weight > 0)
    points, place = distinct(np.where(finite[:, None], points, 0.0))
    if len(points) > 2 * FEW and (rough := refine_pose(pose, _thinned(correspondences), K, threshold_px)):
        pose, iterations = rough.pose, 2
    change, relaxation = np.ones(6), 1.0
    for step in range(iterations + 1):
        pixels, jacobian = projection(pose, points, K)
        residual, of = pixels[place] - image, place
        if whitening is not None:
            residual, jacobian, of = *_whitened(whitening, residual, jacobian[place]), np.arange(len(place))
        square = np.einsum("ij,ij->i", residual, residual)
        active = (square < threshold_px**2) & (weight > 0)
        votes = Votes(residual[active], square[active], weight[active], of[active], jacobian)
        if np.count_nonzero(np.bincount(place[active])) < 4:
            return None
        if step == iterations or np.abs(change).max() < CONVERGED:
            break
        last, found = change, _gauss_newton(votes)
        if found is None:
            return None
        change = found
        if step:
            relaxation = _relaxation(relaxation, last, change)
        pose = moved(pose, relaxation * change)
    pose[:3, :3] = project_to_so3(pose[:3, :3])
    covariance = _covariance(votes)
    if covariance is None:
        return None
    return RefinedPose(pose, covariance, active, noise(votes.square, votes.weight))


def _thinned(correspondences: Correspondences) -> Correspondences:
    """About FEW of the rows, evenly."""
    return correspondences.select(slice(None, None, len(correspondences.image) // FEW))


def _whitened(
    whitening: np.ndarray, residual: np.ndarray, jacobian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (M, 2) and jacobians (M, 2, 6) in the units of ``Correspondences.whitening`` (M, 2, 2)."""
    with np.errstate(invalid="ignore"):  # behind the camera residuals are infinite
        return np.einsum("mij,mj->mi", whitening, residual), whitening @ jacobian


@dataclass(frozen=True)
class Votes:
    """M votes for P points of the object. residual: (M, 2) pixels, square: (M,) of their lengths. weight:
    (M,). place: (M,), which point each is for. jacobian: (P, 2, 6), the derivative of the points' pixels:
    votes for one point share it."""

    residual: np.ndarray
    square: np.ndarray
    weight: np.ndarray
    place: np.ndarray
    jacobian: np.ndarray

    def at_points(self, values: np.ndarray) -> np.ndarray:
        """Values (M,) of the votes, summed for each of the P points."""
        return np.bincount(self.place, values, len(self.jacobian))


def moved(pose: np.ndarray, step: ArrayLike) -> np.ndarray:
    """``T_camera_object`` (4, 4) after a small change (6,) of this file's convention."""
    step = np.asarray(step, float)
    return make_pose(from_rotation_vector(step[3:]) @ pose[:3, :3], pose[:3, 3] + step[:3])


def with_origin_moved(covariance: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The covariance (6, 6) of the pose about another point of the object, ``shift`` (3,) off in camera axes.

    Convention: turning by w moves that point by w x shift, so a rotation about z uncertain by 0.01 rad adds
    1 mm across to a point 0.1 m aside.
    """
    x, y, z = shift
    jacobian = np.eye(6)
    jacobian[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    return jacobian @ covariance @ jacobian.T


def with_axes_turned(covariance: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The covariance (6, 6) of the pose in another frame, ``T_other_camera`` with this rotation (3, 3).

    Places and rotation vectors both turn with the axes; where the frames' origins are makes no difference.

    Convention: sure sideways and unsure in depth (camera z) is unsure in x for a camera that looks along x.
    """
    jacobian = np.kron(np.eye(2), rotation)
    return jacobian @ covariance @ jacobian.T


def projection(pose: np.ndarray, points: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) of points (P, 3), infinite behind the camera, and their derivative (P, 2, 6) by a small
    change of the pose."""
    turned = points @ pose[:3, :3].T
    x, y, z = (turned + pose[:3, 3]).T
    ahead = z > 0
    z = np.where(ahead, z, 1.0)
    u, v = K[0, 0] * x / z, K[1, 1] * y / z
    # the point's pixel moves by (a, 0, b) and (0, c, d) with the point
    a, b, c, d = K[0, 0] / z, -u / z, K[1, 1] / z, -v / z
    p, q, r = turned.T
    jacobian = np.zeros((len(z), 2, 6))
    jacobian[:, 0, 0], jacobian[:, 0, 2], jacobian[:, 1, 1], jacobian[:, 1, 2] = a, b, c, d
    # row . (w x turned) = w . (turned x row)
    jacobian[:, 0, 3], jacobian[:, 0, 4], jacobian[:, 0, 5] = q * b, r * a - p * b, -q * a
    jacobian[:, 1, 3], jacobian[:, 1, 4], jacobian[:, 1, 5] = q * d - r * c, -p * d, p * c
    pixels = np.stack([u + K[0, 2], v + K[1, 2]], -1)
    pixels[~ahead] = np.inf
    return pixels, jacobian


def noise(square: np.ndarray, weight: np.ndarray) -> float:
    """Standard deviation of one component of residuals whose squared lengths are given (M,), pixels, at least
    SIGMA_FLOOR.

    From the weighted median length, which is 1.1774 sigma where both components are normal.
    """
    order = np.argsort(square)
    half = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)
    return max(SIGMA_FLOOR, float(np.sqrt(square[order[min(half, len(order) - 1)]])) / 1.1774)


def _gauss_newton(votes: Votes) -> np.ndarray | None:
    width = 3 * noise(votes.square, votes.weight)
    robust = votes.weight / (1 + votes.square / width**2) ** 2
    pull = np.stack([votes.at_points(robust * component) for component in votes.residual.T], -1)
    gradient = pull.ravel() @ votes.jacobian.reshape(-1, 6)
    inverse = _inverse(_information(votes.jacobian, votes.at_points(robust)))
    return None if inverse is None else -inverse @ gradient


def _relaxation(before: float, last: np.ndarray, change: np.ndarray) -> float:
    """By how much to lengthen a step (6,), from the one before and from what that was lengthened by.

    With outliers, steps shorten by a constant share: each frees votes that had held the pose back. Where the
    sum of such a series lies, two of its steps tell. After Irons and Tuck, "A version of the Aitken
    accelerator for computer iteration", 1969; the share is taken along the step before, metres and radians as
    they are. Worked: steps 4, 2, 1 point to 8, so the second is doubled.
    """
    return float(np.clip(before / max(1 - change @ last / (last @ last), 1e-3), 1, LONGEST))


def _information(jacobian: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (weight[:, None, None] * jacobian).reshape(-1, 6).T @ jacobian.reshape(-1, 6)


def _inverse(matrix: np.ndarray) -> np.ndarray | None:
    """The inverse of a symmetric matrix, or None where a direction is not held (condition beyond 1e12)."""
    size = np.sqrt(matrix.diagonal())
    if not size.min() > 0:
        return None
    scale = size[:, None] * size
    values, axes = np.linalg.eigh(matrix / scale)
    if not values[0] * 1e12 >= values[-1]:  # or not a number
        return None
    return (axes / values) @ axes.T / scale


def _covariance(votes: Votes) -> np.ndarray | None:
    """The covariance (6, 6).

    The votes of neighbouring cells err alike, so more cells do not simply mean a surer pose. The votes for
    one object point are averaged, each average is one observation, and how badly the averages fit the pose
    is their noise: cells that err alike leave it large, cells that err each in its own way make it small. At
    most MOST_INDEPENDENT points count. What all points share (a wrong K, a network's habit) is not in it.
    """
    total = votes.at_points(votes.weight)
    seen = total > 0
    sums = np.stack([votes.at_points(votes.weight * component) for component in votes.residual.T], -1)
    means = sums[seen] / total[seen, None]
    independent = min(len(means), MOST_INDEPENDENT)
    freedom = (2 * independent - 6) / independent  # six of the residuals' freedoms went into the pose
    variance = max(SIGMA_FLOOR**2, (means**2).sum(1).mean() / freedom)
    inverse = _inverse(_information(votes.jacobian, seen * independent / len(means)))
    return None if inverse is None else variance * (inverse + inverse.T) / 2
