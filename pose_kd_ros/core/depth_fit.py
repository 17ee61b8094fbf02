# SPDX-License-Identifier: Apache-2.0
"""Refine a pose on a depth image: the mesh is moved onto the measured surface, point to plane.

Each pixel's measurement is compared with the face that the pixel sees (projective association), along that
face's normal. Sources: Chen and Medioni, "Object modelling by registration of multiple range images", 1992,
for point to plane; Rusinkiewicz and Levoy, "Efficient variants of the ICP algorithm", 2001, for projective
association.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .camera import Camera
from .edges import FARTHEST_MOVE, Refused
from .mesh import Mesh, cast
from .metrics import error_vector
from .pose import cross, project_to_so3, transform
from .refine import moved

ROUNDS = 6
MOST_PIXELS = 1200  # that are compared, evenly over the object
LEAST_PIXELS, LEAST_SHARE = 60, 0.4  # that must agree
REACH = 2.5  # standard deviations of the pose: a measurement farther from its face is of something else
NOISE, AGREES = 0.002, 3.0  # metres of a measurement; times the noise
SHARED = 0.004  # metres along the line of sight that all measurements of a frame are off together
INDEPENDENT = 60  # pixels at most: neighbours err alike (assumed, not measured)


def refine_on_depth(
    depth: np.ndarray, camera: Camera, mesh: Mesh, pose: ArrayLike, covariance: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Move ``T_camera_object`` (4, 4) onto a depth image (H, W), metres along z, 0 where none is measured,
    aligned with the camera; return the pose and its covariance (6, 6).

    covariance: (6, 6), what is known of the pose, by the convention of ``core.refine``; it takes part as a
    prior. What all measurements have in common (SHARED) is in the covariance that comes out. Raises
    ``edges.Refused`` where too few pixels measure the object, too few of these agree with its mesh, or they
    say a pose that the covariance does not allow.
    """
    start, pose = np.asarray(pose, float), np.array(pose, float)
    covariance = np.asarray(covariance, float)
    sight = start[:3, 3] / np.linalg.norm(start[:3, 3])
    prior, spread = np.linalg.inv(covariance), covariance
    for _ in range(ROUNDS):
        measured, rays = _measurements(depth, camera, mesh, pose)
        expected, face = cast(mesh, pose, rays)
        met = np.isfinite(expected)
        points, rays, expected, normal = (
            (measured[:, None] * rays)[met],
            rays[met],
            expected[met],
            mesh.normals[face[met]] @ pose[:3, :3].T,
        )
        if len(points) < LEAST_PIXELS:
            raise Refused("few_depths", f"depths: wanted {LEAST_PIXELS} or more, found {len(points)}")
        on_face = expected[:, None] * rays
        error = np.einsum("ni,ni->n", normal, points - on_face)
        jacobian = np.concatenate([normal, cross(on_face - pose[:3, 3], normal)], 1)
        allowed = REACH * np.sqrt(np.einsum("ni,ij,nj->n", jacobian, spread, jacobian) + NOISE**2)
        weight = (np.abs(error) < allowed) / (1 + (error / (3 * NOISE)) ** 2) ** 2
        weight *= min(1.0, INDEPENDENT / max(weight.sum(), 1e-9)) / NOISE**2
        spread = np.linalg.inv(prior + (weight[:, None] * jacobian).T @ jacobian)
        pull = jacobian.T @ (weight * error) - prior @ error_vector(start, pose)
        pose = moved(pose, spread @ pull)
    pose[:3, :3] = project_to_so3(pose[:3, :3])
    agree = np.abs(error) < AGREES * NOISE
    if agree.sum() < max(LEAST_PIXELS, LEAST_SHARE * len(points)):
        raise Refused("few_agree", f"depths on faces: wanted {LEAST_SHARE:.0%}, found {agree.mean():.0%}")
    change = error_vector(start, pose)
    if (distance := change @ prior @ change) > FARTHEST_MOVE:
        raise Refused("too_far", f"squared distance: wanted {FARTHEST_MOVE} at most, found {distance:.1f}")
    spread = (spread + spread.T) / 2
    spread[:3, :3] += SHARED**2 * np.outer(sight, sight)
    return pose, spread


def _measurements(
    depth: np.ndarray, camera: Camera, mesh: Mesh, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return measured depths (N,) in the box of the mesh's projection and the rays (N, 3), z = 1, of their
    pixels, at most MOST_PIXELS."""
    pixels = camera.project(transform(pose, mesh.vertices))
    if not np.isfinite(pixels).all():
        return np.zeros(0), np.zeros((0, 3))
    low = np.clip(np.floor(pixels.min(0)), 0, [camera.width, camera.height]).astype(int)
    high = np.clip(np.ceil(pixels.max(0)) + 1, 0, [camera.width, camera.height]).astype(int)
    step = max(1, int(np.ceil(np.sqrt(np.prod(np.maximum(high - low, 0)) / MOST_PIXELS))))
    v, u = np.mgrid[low[1] : high[1] : step, low[0] : high[0] : step].reshape(2, -1)
    measured = np.asarray(depth)[v, u].astype(float)
    there = np.isfinite(measured) & (measured > 0)
    return measured[there], camera.rays(np.stack([u, v], -1)[there])
