# SPDX-License-Identifier: Apache-2.0
"""Pseudo ground truth for the demo's recording, by optical flow and edges, without a network.

The recording states only the pose of its first frame. Points on the visible faces are tracked (pyramidal
Lucas-Kanade, forward and back), and PnP gives the next pose. The cube's edges, found as the strongest
gradients near the projected edges, correct the drift. ``edge_error`` measures the error of any pose from the
image alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import from_rotation_vector, inverse, make_pose, transform

EDGE_M = 0.084
CORNERS = box_corners((0, 0, 0), (EDGE_M,) * 3)
EDGES = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]
REACH = 8  # pixels to each side of a projected edge in which its gradient is searched
CORNER_POSE = make_pose(
    from_rotation_vector((2.100485509, 1.146812236, -0.4560126437)),
    (0.02231950571, 0.1071368004, 0.5071128378),
)  # mbt/cube.0.pos: origin in a corner
FIRST = CORNER_POSE @ make_pose(np.eye(3), (-0.042, 0.042, 0.042))


def project(pose, points, K) -> np.ndarray:
    """Pinhole projection (N, 2) of object points (N, 3)."""
    seen = transform(pose, points) @ K.T
    return seen[:, :2] / seen[:, 2:]


def visible_faces(pose) -> list[tuple[int, int]]:
    """(axis, sign) of the faces that face the camera."""
    camera = inverse(pose)[:3, 3]
    return [(axis, sign) for axis in range(3) for sign in (-1, 1) if sign * camera[axis] > EDGE_M / 2]


def visible_edges(pose) -> list[tuple[int, int]]:
    """Pairs of corners: the edges of the visible faces."""
    faces = visible_faces(pose)
    return [
        (a, b) for a, b in EDGES if any(CORNERS[a][x] * s > 0 and CORNERS[b][x] * s > 0 for x, s in faces)
    ]


def mask_of(pose, K, shape, shrink: int = 0) -> np.ndarray:
    """The cube's silhouette (H, W) uint8, shrunk (> 0) or grown (< 0) by pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(project(pose, CORNERS, K)).astype(np.int32)), 255)
    kernel = np.ones((2 * abs(shrink) + 1,) * 2, np.uint8)
    return cv2.erode(mask, kernel) if shrink > 0 else cv2.dilate(mask, kernel) if shrink < 0 else mask


def on_surface(pose, pixels, K) -> tuple[np.ndarray, np.ndarray]:
    """Where rays through pixels (N, 2) meet the cube: object points (N, 3) and whether they do (N,)."""
    back = inverse(pose)
    origin = back[:3, 3]
    rays = np.c_[(pixels - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones(len(pixels))] @ back[:3, :3].T
    best, points = np.full(len(pixels), np.inf), np.zeros((len(pixels), 3))
    for axis, sign in visible_faces(pose):
        distance = (sign * EDGE_M / 2 - origin[axis]) / rays[:, axis]
        hit = origin + distance[:, None] * rays
        inside = (np.abs(hit) < EDGE_M / 2 + 1e-6).all(1) & (distance > 0) & (distance < best)
        best[inside], points[inside] = distance[inside], hit[inside]
    return points, np.isfinite(best)


def edge_measurements(grey, pose, K) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample the visible edges: object points (N, 3), image normals (N, 2), signed pixels (N,) to the
    strongest gradient along the normal, NaN where no gradient is strong enough."""
    points = np.concatenate(
        [
            CORNERS[a] + np.linspace(0.08, 0.92, 25)[:, None] * (CORNERS[b] - CORNERS[a])
            for a, b in visible_edges(pose)
        ]
    )
    along = np.concatenate([np.tile(CORNERS[b] - CORNERS[a], (25, 1)) for a, b in visible_edges(pose)])
    pixels = project(pose, points, K)
    direction = project(pose, points + 1e-3 * along / EDGE_M, K) - pixels
    normal = np.c_[-direction[:, 1], direction[:, 0]] / np.linalg.norm(direction, axis=1, keepdims=True)
    offsets = np.arange(-REACH, REACH + 1)
    places = (pixels[:, None] + offsets[:, None] * normal[:, None]).astype(np.float32)
    profile = cv2.remap(
        cv2.GaussianBlur(grey, (3, 3), 0).astype(np.float32), places[..., 0], places[..., 1], cv2.INTER_LINEAR
    )
    gradient = np.abs(np.gradient(profile, axis=1))
    shift = offsets[np.argmax(gradient * np.exp(-((offsets / 6.0) ** 2)), axis=1)].astype(float)
    shift[gradient.max(1) < 4] = np.nan
    return points, normal, shift


def edge_error(grey, pose, K) -> tuple[float, float]:
    """Median distance in pixels from projected edges to gradients, and the share of samples within 2.5 px."""
    _, _, shift = edge_measurements(grey, pose, K)
    if not np.isfinite(shift).any():
        return np.inf, 0.0
    return float(np.nanmedian(np.abs(shift))), float(np.mean(np.abs(np.nan_to_num(shift, nan=99)) <= 2.5))


def fit(pose, K, points, pixels, grey=None, rounds: int = 6) -> np.ndarray:
    """Fit a pose by Gauss-Newton to tracked points (weight 1) and, if ``grey`` is given, to edges along their
    normals (Tukey)."""
    from pose_kd_ros.core.refine import moved, projection

    for _ in range(rounds):
        p, J = projection(pose, points, K)
        r, J = (p - pixels).reshape(-1), J.reshape(-1, 6)
        w = 1 / (1 + (np.repeat(np.hypot(*r.reshape(-1, 2).T), 2) / 1.0) ** 2) ** 2
        if grey is not None:
            p, normal, shift = edge_measurements(grey, pose, K)
            good = np.isfinite(shift)
            _, Je = projection(pose, p, K)
            Je = np.einsum("ni,nij->nj", normal, Je)[good]
            e = -shift[good]
            r, J = np.r_[r, e], np.r_[J, Je]
            w = np.r_[w, 0.5 / (1 + (e / 1.5) ** 2) ** 2]
        pose = moved(pose, -np.linalg.solve(J.T @ (w[:, None] * J) + 1e-9 * np.eye(6), J.T @ (w * r)))
    return pose


def follow(frames, K) -> list[np.ndarray]:
    """Return T_camera_object (origin in the cube's centre) of every grey frame, from FIRST on."""
    poses, before = [], None
    for grey in frames:
        if before is None:
            pose = fit(FIRST, K, np.zeros((0, 3)), np.zeros((0, 2)), grey)
        else:
            pose = _next(before, grey, poses[-1], K)
        poses.append(pose)
        before = grey
    return poses


def _next(before, grey, pose, K) -> np.ndarray:
    start = cv2.goodFeaturesToTrack(before, 200, 0.005, 4, mask=mask_of(pose, K, before.shape, 3))[:, 0]
    there, tracked = flow(before, grey, start)
    points, hit = on_surface(pose, start.astype(float), K)
    good = tracked & hit
    moved, _ = solved(points[good], there[good], pose, K)
    return fit(moved, K, points[good], there[good], grey)


def solved(points, pixels, pose, K) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose of object points (N, 3) seen at pixels (N, 2), by PnP from ``pose`` on, and the indices
    of its inliers."""
    rotation, _ = cv2.Rodrigues(pose[:3, :3])
    _, rotation, translation, inliers = cv2.solvePnPRansac(
        points, pixels, K, None, rotation, pose[:3, 3:].copy(), True, 200, 2.0
    )
    return make_pose(cv2.Rodrigues(rotation)[0], translation[:, 0]), inliers[:, 0]


def follow_flow(frames, K, most: int = 300) -> list[np.ndarray]:
    """Return T_camera_object of every grey frame by optical flow alone, no edges and no network, from FIRST.

    A point keeps the place on the cube where it was first seen, for as long as it can be tracked, so that the
    pose drifts only when faces turn away.
    """
    poses, before = [FIRST], frames[0]
    pixels, points = _new_points(before, FIRST, K, np.zeros((0, 2)), most)
    for grey in frames[1:]:
        there, good = flow(before, grey, pixels)
        pixels, points = there[good], points[good]
        moved, kept = solved(points, pixels, poses[-1], K)
        pixels, points = pixels[kept], points[kept]
        pose = fit(moved, K, points, pixels)
        poses.append(pose)
        new, places = _new_points(grey, pose, K, pixels, most - len(pixels))
        pixels, points, before = np.concatenate([pixels, new]), np.concatenate([points, places]), grey
    return poses


def flow(before, after, pixels) -> tuple[np.ndarray, np.ndarray]:
    """Return where pixels (N, 2) of a grey frame are in the next frame (N, 2), and whether tracking them back
    ends where it began (N,) (pyramidal Lucas-Kanade)."""
    start = np.asarray(pixels, np.float32).reshape(-1, 1, 2)
    unset = np.zeros_like(start)
    there, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, start, unset, winSize=(15, 15), maxLevel=3)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
        after, before, there, unset.copy(), winSize=(15, 15), maxLevel=3
    )
    close = np.linalg.norm(back - start, axis=2)[:, 0] < 0.5
    return there[:, 0].astype(float), (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & close


def _new_points(grey, pose, K, known, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return new pixels (N, 2) to track on the cube, away from the known ones, and their object points (N,
    3)."""
    mask = mask_of(pose, K, grey.shape, 4)
    for u, v in np.round(known).astype(int).tolist():
        cv2.circle(mask, (u, v), 4, 0, -1)
    corners = cv2.goodFeaturesToTrack(grey, most, 0.005, 4, mask=mask) if most > 0 else None
    pixels = np.zeros((0, 2)) if corners is None else corners[:, 0].astype(float)
    points, hit = on_surface(pose, pixels, K)
    return pixels[hit], points[hit]


def flow_error(before, after, pose, next_pose, K) -> float:
    """Return the median distance, pixels, between where optical flow and where two poses move the cube's
    texture to the next frame. It uses no edges and does not drift."""
    pixels, points = _new_points(before, pose, K, np.zeros((0, 2)), 200)
    there, good = flow(before, after, pixels)
    if good.sum() < 20:
        return float("nan")
    return float(np.median(np.linalg.norm(project(next_pose, points, K) - there, axis=1)[good]))
