# SPDX-License-Identifier: Apache-2.0
"""Refine a pose on the image: the object's sharp edges and outline are moved onto the image's edges.

Points along the edges that show are projected; across each of them the image is searched for strong
gradients, dark to light or light to dark, as far as the pose's covariance reaches; the pose is moved by
Gauss-Newton to where most points lie on one. The stated covariance takes part as a prior, so what the edges
do not hold, as the turn of a bottle, stays as it was.

Sources: Harris and Stennett, "RAPID, a video rate object tracker", 1990, for the search along normals;
Drummond and Cipolla, "Real-time visual tracking of complex structures", 2002, for the robust form; Vacchetti,
Lepetit and Fua, "Combining edge and texture information for real-time accurate 3D camera tracking", 2004, for
several candidates at each point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from .camera import Camera
from .mesh import Mesh, is_seen, visible_edges
from .metrics import error_vector
from .pose import project_to_so3
from .refine import moved, projection

ROUNDS = 5  # of search and step; the last steps are far below a millimetre
MOST_POINTS, LEAST_SPACING = 200, 2.0  # points along the edges, pixels between them
NEAREST, FARTHEST = 3.0, 16.0  # pixels that are searched to each side, however sure or unsure the pose is
FAINT = 4.0  # grey levels per pixel: less is no edge
ALIGNED = 4  # power: a gradient 45 degrees off the normal counts a quarter
BLUR = 0.7  # pixels
LEAST_POINTS, LEAST_SHARE = 20, 0.5  # that must agree
AGREES = 2.0  # pixels
SIGMA = 0.5  # pixels: mesh, calibration and blur together are not better than this
INDEPENDENT = 40  # points at most: neighbours on an edge err alike (assumed, not measured)
FARTHEST_MOVE = 16.8  # squared Mahalanobis distance that 99 % of six-dimensional errors stay below


class Refused(ValueError):
    """A pose was not refined; it stays as it was. reason: a word or two, for counting. agreement: 0 where the
    image speaks against the pose, NaN where it says nothing."""

    def __init__(self, reason: str, text: str, agreement: float = math.nan):
        super().__init__(f"{reason}: {text}")
        self.reason, self.agreement = reason, agreement


@dataclass(frozen=True)
class OnEdges:
    """A refined pose: ``T_camera_object`` (4, 4), its covariance (6, 6) by the convention of ``core.refine``,
    and the share of the points that lie on an edge of the image."""

    pose: np.ndarray
    covariance: np.ndarray
    agreement: float


def refine_on_edges(
    image: np.ndarray, camera: Camera, mesh: Mesh, pose: ArrayLike, covariance: ArrayLike
) -> OnEdges:
    """Move ``T_camera_object`` (4, 4) onto the edges of an image (H, W, 3) or (H, W), uint8.

    covariance: (6, 6), what is known of the pose, by the convention of ``core.refine``. Raises Refused where
    too little of the object shows, too few points find an edge that fits, or the edges say a pose that the
    covariance does not allow.
    """
    start, pose = np.asarray(pose, float), np.array(pose, float)
    covariance = np.asarray(covariance, float)
    prior, spread = np.linalg.inv(covariance), covariance
    for _ in range(ROUNDS):
        points, along = sample_edges(mesh, pose, camera.K)
        if len(points) < LEAST_POINTS:
            raise Refused("too_small", f"edge points: wanted {LEAST_POINTS} or more, found {len(points)}")
        pixels, normal, jacobian = across_edges(pose, points, along, camera.K)
        sigma = np.sqrt(np.einsum("ni,ij,nj->n", jacobian, spread, jacobian))
        error = nearest_edges(image, camera, pixels, normal, np.clip(sigma, NEAREST / 2, FARTHEST / 2))
        weight = weights_of(error)
        spread = np.linalg.inv(prior + (weight[:, None] * jacobian).T @ jacobian)
        pull = jacobian.T @ (weight * np.nan_to_num(error)) - prior @ error_vector(start, pose)
        pose = moved(pose, spread @ pull)
    pose[:3, :3] = project_to_so3(pose[:3, :3])
    agree = np.abs(error) < AGREES  # not a number: none
    if agree.sum() < max(LEAST_POINTS, LEAST_SHARE * len(points)):
        raise Refused(
            "few_agree", f"points on edges: wanted {LEAST_SHARE:.0%}, found {agree.mean():.0%}", 0.0
        )
    change = error_vector(start, pose)
    if (distance := change @ prior @ change) > FARTHEST_MOVE:
        raise Refused(
            "too_far", f"squared distance: wanted {FARTHEST_MOVE} at most, found {distance:.1f}", 0.0
        )
    # The edges may be others than the object's: so far the pose is as unsure as it was.
    doubt = 1 - agree.mean()
    return OnEdges(pose, (1 - doubt) * (spread + spread.T) / 2 + doubt * covariance, float(agree.mean()))


def weights_of(error: np.ndarray) -> np.ndarray:
    """Return the weight of each error (N,) in pixels, NaN where there is none: Geman and McClure's, twice as
    wide as the noise, over the noise's variance, as if INDEPENDENT points were there at most."""
    found = np.isfinite(error)
    noise = max(SIGMA, 1.4826 * float(np.median(np.abs(error[found])))) if found.any() else SIGMA
    weight = found / (1 + (np.nan_to_num(error) / (2 * noise)) ** 2) ** 2
    return weight * min(1.0, INDEPENDENT / max(weight.sum(), 1e-9)) / noise**2


def sample_edges(mesh: Mesh, pose: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points (N, 3) of the object, evenly along the edges that show in the image, and the directions
    (N, 3) of their edges. Nothing of an object that reaches behind the camera."""
    ends = mesh.vertices[mesh.edges[visible_edges(mesh, pose)]]
    pixels = projection(pose, ends.reshape(-1, 3), K)[0].reshape(-1, 2, 2)
    if not np.isfinite(pixels).all():
        return np.zeros((0, 3)), np.zeros((0, 3))
    length = np.linalg.norm(pixels[:, 1] - pixels[:, 0], axis=1)
    reached = np.cumsum(length)
    total = reached[-1] if len(reached) else 0.0
    count = min(MOST_POINTS, int(total / LEAST_SPACING))
    place = (np.arange(count) + 0.5) / max(count, 1) * total
    edge = np.searchsorted(reached, place)
    share = 1 - (reached[edge] - place) / length[edge]
    along = ends[edge, 1] - ends[edge, 0]
    points = ends[edge, 0] + share[:, None] * along
    seen = is_seen(mesh, pose, points)
    return points[seen], along[seen]


def across_edges(
    pose: np.ndarray, points: np.ndarray, along: np.ndarray, K: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ideal pixels (N, 2) of edge points, unit normals (N, 2) of the edges in the image, and how far
    each point moves along its normal with a small change of the pose (N, 6)."""
    pixels, jacobian = projection(pose, points, K)
    direction = projection(pose, points + 1e-3 * along, K)[0] - pixels
    normal = np.stack([-direction[:, 1], direction[:, 0]], -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    return pixels, normal, np.einsum("ni,nij->nj", normal, jacobian)


def nearest_edges(
    image: np.ndarray, camera: Camera, pixels: np.ndarray, normal: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return how far along the normals (N, 2) the likeliest edges of the image are, pixels (N,), NaN where
    there is none.

    pixels: (N, 2), of the ideal image; each place is looked up where the lens shows it. sigma: (N,), how
    unsure the distance is. The likeliest of all gradients across the normal is the one whose strength times
    the chance of its distance is largest.
    """
    reach = np.ceil(2 * sigma.max()) + 1
    offsets = np.arange(-reach, reach + 1)
    slope = slopes(image, camera, pixels[:, None] + offsets[:, None] * normal[:, None])
    across = np.abs(np.einsum("nmi,ni->nm", slope, normal))
    strength = across * (across / (np.linalg.norm(slope, axis=2) + 1e-9)) ** ALIGNED
    before, here, after = strength[:, :-2], strength[:, 1:-1], strength[:, 2:]
    is_peak = (here >= before) & (here > after) & (here >= FAINT)
    curve = np.maximum(2 * here - before - after, 1e-9)
    place = offsets[1:-1] + np.clip((after - before) / (2 * curve), -0.5, 0.5)
    chance = np.where(is_peak, here, 0) * np.exp(-0.5 * (place / sigma[:, None]) ** 2)
    best = np.arange(len(place)), chance.argmax(1)
    return np.where(is_peak[best], place[best], np.nan)


def slopes(image: np.ndarray, camera: Camera, pixels: np.ndarray) -> np.ndarray:
    """Return the smoothed image's derivatives (N, M, 2), grey levels per pixel, at ideal pixels (N, M, 2).
    They are 0 outside the image, so nothing is found there."""
    places = pixels
    if len(camera.D):
        rays = (pixels - camera.K[:2, 2]) / camera.K[[0, 1], [0, 1]]
        places = np.nan_to_num(camera.project(np.concatenate([rays, np.ones((*rays.shape[:-1], 1))], -1)))
    most = [camera.width, camera.height]
    low = np.clip(np.floor(places.min((0, 1))) - 3, 0, np.subtract(most, 1)).astype(int)
    high = np.clip(np.ceil(places.max((0, 1))) + 4, low + 1, most).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) if part.ndim == 3 else part
    part = cv2.GaussianBlur(part, (0, 0), BLUR)
    part = np.stack([cv2.Scharr(part, cv2.CV_32F, *d) / 32 for d in ((1, 0), (0, 1))], -1)
    u, v = np.moveaxis((places - low).astype(np.float32), -1, 0)
    return cv2.remap(part, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
