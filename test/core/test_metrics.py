# SPDX-License-Identifier: Apache-2.0
import csv
from collections import defaultdict

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.metrics import (
    MSPD_THRESHOLDS,
    MSSD_THRESHOLDS,
    add,
    add_s,
    auc_posecnn,
    average_recall,
    count,
    match,
    mspd,
    mssd,
    pose_error,
    recall,
)
from pose_kd_ros.core.object_model import box_corners, expand_symmetries
from pose_kd_ros.core.pose import make_pose, transform
from pose_kd_ros.datasets.bop import load_models_info
from pose_kd_ros.datasets.meshes import load_ply_vertices

K = np.array([[572.4114, 0, 325.2611], [0, 573.57043, 242.04899], [0, 0, 1]])
POINTS = np.random.default_rng(0).uniform(-0.05, 0.05, (60, 3))
ONE = np.eye(4)[None]


def poses(count, seed):
    random = np.random.default_rng(seed)
    rotation = Rotation.random(count, random_state=seed).as_matrix()
    return make_pose(rotation, random.uniform(-0.1, 0.1, (count, 3)) + [0, 0, 0.7])


def test_shifted_pose_by_hand():
    true = poses(4, 1)
    found = true.copy()
    found[:, 0, 3] += 0.03
    found[:, 1, 3] += 0.04
    for distance in (add(found, true, POINTS), mssd(found, true, POINTS, ONE), pose_error(found, true)[0]):
        np.testing.assert_allclose(distance, 0.05)
    assert (add_s(found, true, POINTS) < 0.05).all()
    ahead = make_pose(np.eye(3), [0, 0, 1.0])
    shifted = make_pose(np.eye(3), [0.01, 0, 1.0])
    origin = np.zeros((1, 3))
    assert mspd(shifted, ahead, origin, ONE, K) == pytest.approx(5.724114)


def test_against_slow_loops():
    found, true = poses(5, 2), poses(5, 3)
    half_turn = make_pose(np.diag([-1.0, 1, -1]), [0.01, 0, 0])
    symmetries = expand_symmetries([half_turn], [([0, 0, 1], [0, 0, 0])], 5)

    def project(p):
        return (p @ K.T)[:, :2] / p[:, 2:]

    for i in range(5):
        e = transform(found[i], POINTS)
        truths = [transform(true[i] @ s, POINTS) for s in symmetries]
        wanted = min(max(np.linalg.norm(a - b) for a, b in zip(e, t)) for t in truths)
        assert mssd(found[i], true[i], POINTS, symmetries) == pytest.approx(wanted)
        wanted = min(np.linalg.norm(project(e) - project(t), axis=1).max() for t in truths)
        assert mspd(found[i], true[i], POINTS, symmetries, K) == pytest.approx(wanted)
        wanted = np.mean([min(np.linalg.norm(b - a) for a in e) for b in truths[0]])
        assert add_s(found[i], true[i], POINTS) == pytest.approx(wanted)


def test_add_s_takes_true_points_to_estimated_ones():
    """The other way round the figure differs: one far true point counts fully, and is never the nearest."""
    points = np.array([[0, 0, 0], [0, 0, 0.001], [0, 0, 0.1]])
    found, true = make_pose(np.eye(3), [0, 0, 1.0]), make_pose(np.eye(3), [0, 0, 1.1])
    assert add_s(found, true, points) == pytest.approx((0 + 0.001 + 0.1) / 3)
    assert add_s(true, found, points) == pytest.approx((0.1 + 0.099 + 0) / 3)


def test_equivalent_poses_have_no_symmetric_error():
    quarters = expand_symmetries((), [([0, 0, 1], [0.01, 0.02, 0])], 4)
    true = poses(3, 4)
    found = true @ quarters[1]
    np.testing.assert_allclose(mssd(found, true, POINTS, quarters), 0, atol=1e-9)
    np.testing.assert_allclose(mspd(found, true, POINTS, quarters, K), 0, atol=1e-6)
    shift, turn = pose_error(found, true, quarters)
    np.testing.assert_allclose(shift, 0, atol=1e-9)
    np.testing.assert_allclose(turn, 0, atol=1e-6)
    np.testing.assert_allclose(pose_error(found, true)[1], np.pi / 2)


def test_leading_shapes_broadcast_and_chunks_agree(monkeypatch):
    found, true = poses(3, 5)[:, None], poses(4, 6)[None]
    whole = mssd(found, true, POINTS, ONE)
    assert whole.shape == (3, 4)
    monkeypatch.setattr("pose_kd_ros.core.metrics._CHUNK", 200)
    np.testing.assert_array_equal(mssd(found, true, POINTS, ONE), whole)
    assert add(found[:0], true, POINTS).shape == (0, 4)
    assert add(found[0, 0], true[0, 0], POINTS).shape == ()


@pytest.mark.filterwarnings("error")
def test_behind_the_camera_is_infinitely_wrong():
    true, behind = make_pose(np.eye(3), [0, 0, 1.0]), make_pose(np.eye(3), [0, 0, -1.0])
    assert np.isinf(mspd(behind, true, POINTS, ONE, K))


def test_recall_is_strict():
    assert recall([0.1, 0.05, np.inf, 0.2], 0.1) == 0.25
    assert np.isnan(recall([], 0.1))


def test_auc_by_hand():
    assert auc_posecnn([0.0, 0.0]) == 1.0
    assert auc_posecnn([np.inf, 0.2]) == 0.0
    assert auc_posecnn([0.05]) == pytest.approx(1.0)  # the accuracy of the farther end
    assert auc_posecnn([0.04, 0.08, np.inf, np.inf]) == pytest.approx(0.4 * 0.25 + 0.6 * 0.5)


def test_greedy_matching():
    errors = [[0.2, 0.1], [0.3, 0.05], [0.0, 0.0]]
    assert match(errors, [0.9, 0.8, 0.1], 1.0).tolist() == [1, 0, -1]
    assert match(errors, [0.9, 0.8, 0.1], 0.3).tolist() == [1, -1, 0]
    assert match(errors, [0.1, 0.2, 0.3], 1.0).tolist() == [-1, 1, 0]
    assert match(np.zeros((0, 2)), [], 1.0).tolist() == []
    assert match(np.zeros((2, 0)), [1, 2], 1.0).tolist() == [-1, -1]
    with pytest.raises(ValueError, match="3, G"):
        match([[0.1]], [1, 2, 3], 1.0)


def test_counts():
    none_found, nothing_there = (np.zeros((0, 2)), []), (np.zeros((1, 0)), [0.3])
    groups = [([[0.0], [0.0]], [0.5, 0.9]), none_found, ([[5.0]], [1.0]), nothing_there]
    everything = count(groups, 1.0)
    assert (everything.matched, everything.estimates, everything.truths) == (1, 4, 4)
    assert everything.precision == 0.25 and everything.recall == 0.25
    assert count(groups, 1.0, top_only=True).estimates == 2
    assert np.isnan(count([], 1.0).precision)
    assert average_recall([([[9.0], [0.0]], [0.9, 0.1])], MSSD_THRESHOLDS) == 0  # only the best score counts
    assert average_recall([([[0.3]], [1.0])], MSSD_THRESHOLDS) == pytest.approx(0.4)


def read_bop_csv(path):
    """Rotations as written, not projected to SO(3): the expected figures rest on them so."""
    rows = defaultdict(list)
    with open(path) as file:
        for row in csv.DictReader(file):
            rotation = np.array(row["R"].split(), float).reshape(3, 3)
            pose = make_pose(rotation, np.array(row["t"].split(), float) / 1000)
            rows[row["scene_id"], row["im_id"], int(row["obj_id"])].append((float(row["score"]), pose))
    return rows


def test_bop_toolkit_figures_on_lmo(shared_data):
    """MegaPose on LM-O: bop_toolkit's test expects MSSD 0.494118 and MSPD 0.606713."""
    folder, models = shared_data / "oracles/bop19_lmo", shared_data / "lmo/models_eval"
    truths = read_bop_csv(next(folder.glob("gt-*.csv")))
    found = read_bop_csv(next(folder.glob("cnos-*.csv")))
    info = load_models_info(models / "models_info.json")
    mssd_groups, mspd_groups = [], []
    for identity, model in info.items():
        points = load_ply_vertices(models / f"obj_{identity:06d}.ply")
        symmetries = expand_symmetries(model.symmetries_discrete, model.symmetries_continuous)
        for key in (key for key in truths if key[2] == identity):
            true = np.stack([pose for _, pose in truths[key]])
            estimates = np.array([pose for _, pose in found[key]]).reshape(-1, 4, 4)
            scores = [score for score, _ in found[key]]
            pairs = estimates[:, None], true[None], points, symmetries
            mssd_groups.append((mssd(*pairs) / model.diameter_m, scores))
            mspd_groups.append((mspd(*pairs, K), scores))
    assert len(mssd_groups) == 1445
    assert average_recall(mssd_groups, MSSD_THRESHOLDS) == pytest.approx(0.494118, abs=5e-7)
    assert average_recall(mspd_groups, MSPD_THRESHOLDS) == pytest.approx(0.606713, abs=5e-7)


def test_posecnn_auc_on_ycbv(shared_data):
    """PoseCNN on YCB-Video's cracker box: published AUC 53.1 (ADD) and 76.9 (ADD-S)."""
    folder = shared_data / "oracles/ycbv"
    points = np.loadtxt(folder / "003_cracker_box_points.xyz")
    rows = {
        name: np.concatenate([np.loadtxt(path) for path in sorted((folder / name).glob("*.txt"))])
        for name in ("ground_truth", "posecnn")
    }
    pose = {
        name: make_pose(Rotation.from_quat(row[:, [1, 2, 3, 0]]).as_matrix(), row[:, 4:])
        for name, row in rows.items()
    }
    missing = (rows["posecnn"][:, 4:] == 0).all(1)
    figures = []
    for metric in (add, add_s):
        distances = metric(pose["posecnn"], pose["ground_truth"], points)
        figures.append(auc_posecnn(np.where(missing, np.inf, distances)) * 100)
    np.testing.assert_allclose(figures, [53.1, 76.9], atol=0.05)


def test_random_rotations_of_a_cube():
    """What ADD-S cannot see: it passes wrong rotations of a cube that MSSD refuses."""
    surface = np.random.default_rng(1).uniform(-0.042, 0.042, (3000, 3))
    surface[np.arange(3000), np.arange(3000) % 3] = np.where(np.arange(3000) % 2, 0.042, -0.042)
    surface = np.concatenate([surface, box_corners((0, 0, 0), (0.084,) * 3)])
    diameter = 0.084 * np.sqrt(3)
    cube = Rotation.create_group("O").as_matrix()
    symmetries = np.concatenate([ONE, make_pose(cube, np.zeros(3))])
    true, found = poses(60, 7), poses(60, 8)
    found[:, :3, 3] = true[:, :3, 3]
    assert recall(add_s(found, true, surface), 0.1 * diameter) == 1.0
    assert recall(mssd(found, true, surface, symmetries), 0.1 * diameter) < 0.2


def test_mahalanobis_distances_of_errors_follow_the_covariance_up_to_symmetry():
    from pose_kd_ros.core.metrics import error_vector, mahalanobis_radius, squared_mahalanobis
    from pose_kd_ros.core.object_model import rotations_about
    from pose_kd_ros.core.refine import moved

    pose = make_pose(Rotation.from_rotvec((0.3, -0.2, 0.9)).as_matrix(), (0.1, 0.0, 0.7))
    step = np.array([0.01, 0, -0.02, 0.02, 0.0, 0.01])
    turns = rotations_about((0, 0, 1), steps=4)
    np.testing.assert_allclose(error_vector(pose, moved(pose, step)), step, atol=1e-9)
    np.testing.assert_allclose(error_vector(pose, moved(pose, step) @ turns[3], turns), step, atol=1e-9)
    covariance = np.diag([1e-4] * 6)
    assert squared_mahalanobis(pose, covariance, moved(pose, step)) == pytest.approx((step**2).sum() / 1e-4)
    assert mahalanobis_radius(0.9) == pytest.approx(10.645, abs=1e-3)
