# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from pose_kd_ros.core.camera import Crop, project_pinhole
from pose_kd_ros.core.heatmaps import LEAST_SIGMA, MOST_SIGMA, decode_peaks
from pose_kd_ros.core.metrics import add
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pnp import solve_pnp
from pose_kd_ros.core.pose import make_pose, project_to_so3, transform
from pose_kd_ros.core.predictions import Correspondences
from pose_kd_ros.core.refine import refine_pose
from pose_kd_ros.datasets.meshes import load_ply_vertices


def gaussians(points, covariance=4.0, height=64, width=64):
    """Unit-peak Gaussians (K, h, w) float32 about points (K, 2) of the map."""
    v, u = np.mgrid[:height, :width]
    inverse = np.linalg.inv(covariance * np.eye(2) if np.isscalar(covariance) else covariance)
    off = np.stack([u, v], -1) - np.asarray(points, float)[:, None, None]
    return np.exp(-np.einsum("khwi,ij,khwj->khw", off, inverse, off) / 2).astype(np.float32)


def test_the_convention_by_hand():
    peaks = decode_peaks(gaussians([[10.3, 7.0]]), stride=4)
    np.testing.assert_allclose(peaks.points, [[42.7, 29.5]], atol=1e-3)
    np.testing.assert_allclose(peaks.covariance[0], 64 * np.eye(2), rtol=1e-3, atol=1e-6)
    assert peaks.scores[0] == pytest.approx(np.exp(-(0.3**2) / 8), abs=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_peaks_are_found_between_pixels_up_to_the_border(sigma):
    points = np.random.default_rng(0).uniform(-0.5, (47.5, 31.5), (200, 2))
    peaks = decode_peaks(gaussians(points, sigma**2, 32, 48))
    np.testing.assert_allclose(peaks.points, points, atol=0.02)
    np.testing.assert_allclose(
        peaks.covariance, np.tile(np.eye(2) * sigma**2, (200, 1, 1)), rtol=0.02, atol=0.02
    )


def test_a_peak_that_leans_has_the_covariance_that_leans():
    covariance = np.array([[6.0, 2.0], [2.0, 3.0]])
    peaks = decode_peaks(gaussians([[30.4, 20.7]], covariance))
    np.testing.assert_allclose(peaks.covariance[0], covariance, rtol=1e-3)
    np.testing.assert_allclose(peaks.points[0], [30.4, 20.7], atol=1e-3)


def test_two_peaks_that_merge_are_less_sure_along_their_line():
    double = gaussians([[30.0, 32.0]]) + gaussians([[33.0, 32.0]])
    (covariance,) = decode_peaks(double / double.max()).covariance
    assert covariance[0, 0] > 1.5 * covariance[1, 1] and covariance[1, 1] == pytest.approx(4, rel=0.05)


@pytest.mark.filterwarnings("error")
def test_maps_that_are_no_peaks():
    maps = np.zeros((6, 8, 10), np.float32)
    maps[1] = -1
    maps[2] = np.nan
    maps[3] = 0.5  # a plateau
    maps[4, 2, 3] = 3.0  # a single spike, higher than a map can be
    maps[5] = np.nan
    maps[5, 4, 4] = 0.2
    peaks = decode_peaks(maps)
    assert np.isnan(peaks.points[:3]).all() and not peaks.scores[:3].any()
    assert (np.linalg.eigvalsh(peaks.covariance) > 0).all()
    np.testing.assert_allclose(peaks.covariance[3], np.eye(2) * MOST_SIGMA**2)
    np.testing.assert_allclose(peaks.covariance[4], np.eye(2) * LEAST_SIGMA**2, rtol=1e-6)
    np.testing.assert_allclose(peaks.points[4:], [[3, 2], [4, 4]], atol=1e-9)
    np.testing.assert_allclose(peaks.scores[3:], [0.5, 1.0, 0.2], rtol=1e-6)


def test_a_peak_beyond_the_border_stays_within_reach():
    (point,) = decode_peaks(gaussians([[-4.0, 10.0]])).points
    assert point[0] == -1 and point[1] == pytest.approx(10, abs=1e-3)


def test_noise_moves_a_peak_by_little():
    random = np.random.default_rng(1)
    points = random.uniform(5, 58, (200, 2))
    peaks = decode_peaks(gaussians(points) + random.normal(0, 0.02, (200, 64, 64)))
    assert np.sqrt(np.mean((peaks.points - points) ** 2)) < 0.1


def test_maps_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"heatmaps: wanted \(K, h, w\).*found \(2, 5\)"):
        decode_peaks(np.zeros((2, 5)))


def occluded_linemod(folder, step):
    """(object id, pose, K) of every ``step``-th instance of LM-O's test images."""
    truth = json.loads((folder / "scene_gt.json").read_text())
    cameras = json.loads((folder / "scene_camera.json").read_text())
    instances = [(image, gt) for image, found in truth.items() for gt in found]
    for image, gt in instances[::step]:
        rotation = project_to_so3(np.reshape(gt["cam_R_m2c"], (3, 3)))
        pose = make_pose(rotation, np.array(gt["cam_t_m2c"]) / 1000)
        yield gt["obj_id"], pose, np.reshape(cameras[image]["cam_K"], (3, 3))


def test_the_ceiling_of_a_64_pixel_map_on_occluded_linemod(shared_data):
    """Maps of the true keypoints give the true pose: every instance within ADD < 0.02 d."""
    infos = json.loads((shared_data / "lmo/models_eval/models_info.json").read_text())
    vertices, errors = {}, []
    for number, pose, K in occluded_linemod(shared_data / "lmo/test/000002", step=7):
        if number not in vertices:
            vertices[number] = load_ply_vertices(shared_data / f"lmo/models_eval/obj_{number:06d}.ply")[::10]
        low, high = vertices[number].min(0), vertices[number].max(0)
        keypoints = np.r_[box_corners((low + high) / 2, high - low), [(low + high) / 2]]
        pixels = project_pinhole(K, transform(pose, keypoints))
        crop = Crop.around([*pixels.min(0), *pixels.max(0)], 256)
        peaks = decode_peaks(gaussians((crop.to_input(pixels) + 0.5) / 4 - 0.5), stride=4)
        votes = Correspondences(
            number, crop.to_full(peaks.points), keypoints, peaks.scores, 1.0, None, peaks.covariance
        )
        threshold = 5 / crop.scale
        found = refine_pose(solve_pnp(votes, K, threshold).pose, votes, K, threshold)
        errors.append(add(found.pose, pose, vertices[number]) / (infos[str(number)]["diameter"] / 1000))
    assert len(errors) > 100 and max(errors) < 0.02
