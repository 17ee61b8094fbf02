# SPDX-License-Identifier: Apache-2.0
"""The dense family's training side: networks, surface codes of a mesh, targets, losses, distillation."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries  # noqa: E402
from pose_kd_ros.core.pose import from_rotation_vector, make_pose  # noqa: E402
from pose_kd_ros.core.surface import BITS  # noqa: E402
from pose_kd_ros.datasets.faults import DatasetError  # noqa: E402
from training.data.dense_targets import UNUSED, collate_dense, make_dense_targets  # noqa: E402
from training.losses.dense import bit_weights, bits_of, code_loss, dense_losses, mask_loss, remember  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.losses.distill_dense import (  # noqa: E402
    CodeClouds,
    adlp_code_loss,
    code_clouds,
    mask_distance,
    naive_code_loss,
)
from training.models.dense import DenseNetwork, dense_resnet34, dense_tiny, dense_tiny_h  # noqa: E402

ADLP = DistillConfig("adlp", teacher=Path("x"))


@pytest.mark.parametrize(
    ("config", "parameters", "gflop"),
    [(dense_resnet34(), 29.1e6, 109.0), (dense_tiny(), 1.364e6, 2.887), (dense_tiny_h(), 0.4057e6, 1.035)],
    ids=["resnet34", "tiny", "tiny-h"],
)
def test_networks_cost_what_is_said(config, parameters, gflop):
    network = DenseNetwork(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mask, codes = network(torch.zeros(1, 3, 256, 256))
    assert mask.shape == (1, 1, 128, 128) and codes.shape == (1, BITS, 128, 128)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.01)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.01)


def sample(seed=0, size=8, use=True, codes=None):
    """One object in the middle of a crop of size x size output pixels."""
    labels = np.zeros((size, size), np.uint8)
    labels[2:6, 2:6] = 1
    codes = np.random.RandomState(seed).randint(0, 1 << BITS, (1, size, size)) if codes is None else codes
    made = make_dense_targets([0], [use], [len(codes)], labels, codes)
    return {"image": torch.zeros(3, 2 * size, 2 * size, dtype=torch.uint8), **made}


def perfect(batch):
    """Logits that are right with a probability of 0.9997."""
    mask = torch.where(batch["instance_map"] >= 0, 8.0, -8.0).unsqueeze(1)
    codes = torch.zeros(len(mask), BITS, *mask.shape[2:])
    codes[batch["map_image"]] = bits_of(batch["code_maps"]).movedim(3, 1) * 16 - 8
    return mask, codes


def test_right_predictions_cost_nothing_and_wrong_ones_do():
    batch = collate_dense([sample(0), sample(1)])
    mask, codes = perfect(batch)
    terms, wrong = dense_losses(mask, codes, batch, torch.full((BITS,), 0.5))
    assert max(map(float, terms.values())) < 1e-3 and not wrong.any()
    terms, wrong = dense_losses(-mask, -codes, batch, torch.full((BITS,), 0.5))
    assert terms["mask"] > 0.99 and terms["code"] > 7 and (wrong == 1).all()


def test_the_loss_does_not_know_the_batch_size():
    one, four = (collate_dense([sample(0)] * n) for n in (1, 4))
    values = []
    for batch in (one, four):
        mask, codes = (torch.ones_like(t) for t in perfect(batch))
        values.append(
            [float(v) for v in dense_losses(mask, codes, batch, torch.full((BITS,), 0.25))[0].values()]
        )
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_bits_that_are_being_learnt_weigh_most():
    weight = bit_weights(torch.tensor([0.0, 0.25, 0.5] + [0.5] * 13))
    assert weight[1] == weight.max() and weight[0] == weight[2] and float(weight.sum()) == pytest.approx(1)
    assert float(weight[1] / weight[0]) == pytest.approx(np.exp(0.75), rel=1e-5)


def test_running_errors_follow_and_bits_without_a_pixel_stay():
    errors = torch.full((BITS,), 0.5)
    remember(errors, torch.zeros(BITS))
    assert errors[0] == pytest.approx(0.475)
    remember(errors, torch.full((BITS,), torch.nan))
    assert errors[0] == pytest.approx(0.475)


def test_pixels_of_hidden_objects_are_neither_mask_nor_background():
    batch = collate_dense([sample(use=False)])
    assert (batch["instance_map"] == UNUSED).sum() == 16 and len(batch["code_maps"]) == 0
    mask = torch.where(batch["instance_map"] == UNUSED, 5.0, -20.0).unsqueeze(1)
    assert mask_loss(mask, batch) < 1e-6
    codes = torch.zeros(1, BITS, 8, 8, requires_grad=True)
    loss, wrong, _ = code_loss(codes, batch, torch.full((BITS,), 0.5))
    loss.backward()
    assert loss == 0 and wrong.isnan().all() and torch.isfinite(codes.grad).all()


def test_an_instance_takes_one_of_its_tied_representatives():
    random = np.random.RandomState(0).randint(0, 1 << BITS, (2, 8, 8))
    batch = collate_dense([sample(codes=random), sample(codes=random)])
    _, codes = perfect(collate_dense([sample(codes=random[1:]), sample(codes=random[:1])]))
    loss, wrong, chosen = code_loss(codes, batch, torch.full((BITS,), 0.5))
    assert chosen.tolist() == [False, True, True, False] and loss < 1e-3 and not wrong.any()
    forced, _, _ = code_loss(codes, batch, torch.full((BITS,), 0.5), ~chosen)
    assert forced > 1


def test_equal_representatives_count_once():
    same = np.random.RandomState(0).randint(0, 1 << BITS, (1, 8, 8)).repeat(2, 0)
    batch = collate_dense([sample(codes=same)])
    assert code_loss(torch.zeros(1, BITS, 8, 8), batch, torch.full((BITS,), 0.5))[2].tolist() == [True, False]


# ------------------------------------------------------------------------------------------ distillation


def predictions(count=2, size=32, seed=0, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, BITS, 4, 4, generator=generator) * scale
    codes = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return torch.full((count, 1, size, size), 2.0), codes


def disc_batch(count=2, size=32):
    labels = np.zeros((size, size), np.uint8)
    labels[4:28, 4:20] = 1
    codes = np.zeros((1, size, size), int)
    picture = {"image": torch.zeros(3, 2 * size, 2 * size, dtype=torch.uint8)}
    return collate_dense([{**picture, **make_dense_targets([0], [True], [1], labels, codes)}] * count)


def test_a_student_like_its_teacher_is_at_distance_nothing():
    batch, (mask, codes) = disc_batch(), predictions()
    student = codes.clone().requires_grad_()
    loss, unsolved = adlp_code_loss(code_clouds(mask, student, batch), code_clouds(mask, codes, batch), ADLP)
    loss.backward()
    assert abs(loss) < 1e-5 and unsolved == 0 and student.grad.abs().max() < 1e-5


def test_pools_are_means_by_the_masks_probability_inside_the_visible_mask():
    batch, (_, codes) = disc_batch(1), predictions(1)
    mask = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    cloud = code_clouds(mask, codes, batch)
    inside = batch["instance_map"][0] >= 0
    weight, chance = mask[0, 0].sigmoid() * inside, codes[0].sigmoid()
    wanted = {}
    for v in range(0, 32, 8):
        for u in range(0, 32, 8):
            tile = (slice(v, v + 8), slice(u, u + 8))
            if inside[tile].any():
                wanted[float(weight[tile].mean())] = (chance[(slice(None), *tile)] * weight[tile]).sum(
                    (1, 2)
                ) / weight[tile].sum()
    assert len(wanted) == cloud.mass.shape[1] == 12
    for mass, point in zip(cloud.mass[0], cloud.points[0]):
        nearest = min(wanted, key=lambda m: abs(m - float(mass)))
        assert nearest == pytest.approx(float(mass), rel=1e-5)
        torch.testing.assert_close(point, wanted[nearest], rtol=1e-4, atol=1e-5)


def test_the_transport_of_codes_agrees_with_pot():
    ot = pytest.importorskip("ot")
    batch = disc_batch()
    (mask, ours), (_, theirs) = predictions(seed=1), predictions(seed=2)
    student, teacher = (code_clouds(mask, codes, batch) for codes in (ours, theirs))
    config = dataclasses.replace(ADLP, code_eps=1e-3, max_sweeps=3000)
    loss, _ = adlp_code_loss(student, teacher, config)
    exact = []
    for x, a, y, b in zip(student.points, student.mass, teacher.points, teacher.mass):
        x, a, y, b = (t.double().numpy() for t in (x, a, y, b))
        exact.append(ot.emd2(a / a.sum(), b / b.sum(), ot.dist(x, y) / 2))
    assert float(loss) == pytest.approx(np.mean(exact), rel=0.02)


def test_the_student_is_pulled_to_the_teacher_and_the_teacher_gets_no_gradient():
    batch = disc_batch()
    (mask, start), (_, theirs) = predictions(seed=1), predictions(seed=2)
    student, teacher = start.clone().requires_grad_(), theirs.clone().requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.2)
    before = naive_code_loss(student, teacher, batch).item()
    values = []
    for _ in range(60):
        loss, _ = adlp_code_loss(
            code_clouds(mask, student, batch), code_clouds(mask, teacher.detach(), batch), ADLP
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.1 * values[0] and naive_code_loss(student, teacher, batch) < before
    assert teacher.grad is None


def test_nothing_to_see_is_loss_nothing_with_finite_gradients():
    batch = disc_batch()
    empty = {**batch, "instance_map": torch.full_like(batch["instance_map"], -1)}
    mask, codes = (t.requires_grad_() for t in predictions())
    loss, _ = adlp_code_loss(
        code_clouds(mask, codes, empty), code_clouds(mask.detach(), codes.detach(), empty), ADLP
    )
    (loss + naive_code_loss(codes, codes.detach(), empty)).backward()
    assert loss == 0 and torch.isfinite(codes.grad).all()
    none = CodeClouds(torch.zeros(0, 0, BITS), torch.zeros(0, 0))
    assert adlp_code_loss(none, none, ADLP)[0] == 0


def test_the_released_masses_teach_the_mask_too():
    batch, (mask, codes) = disc_batch(), predictions()
    config = DistillConfig("adlp", teacher=Path("x"), mass="score", rho=0.25)
    weak = (mask - 3).requires_grad_()
    loss, _ = adlp_code_loss(code_clouds(weak, codes, batch), code_clouds(mask, codes, batch), config)
    loss.backward()
    assert loss > 0 and (weak.grad[batch["instance_map"].unsqueeze(1) >= 0] < 0).all()
    gap = torch.sigmoid(torch.tensor(2.0)) - torch.sigmoid(torch.tensor(-1.0))
    torch.testing.assert_close(mask_distance(weak, mask).detach(), gap)


# ------------------------------------------------------------------------------------------ surfaces


@pytest.fixture(scope="module")
def box_models(tmp_path_factory):
    """A models folder with the mesh of a box of 60 x 80 x 100 mm."""
    trimesh = pytest.importorskip("trimesh")
    folder = tmp_path_factory.mktemp("models")
    trimesh.creation.box((60, 80, 100)).export(folder / "obj_000001.ply")
    return folder


def test_a_surface_is_made_once_and_lies_on_the_mesh(box_models, monkeypatch):
    from training.data import surface

    first = surface.load_surface(box_models, 1)
    assert (box_models / "object_000001.npz").exists()
    gap = np.abs(np.abs(first.points) - (0.03, 0.04, 0.05)).min(1)
    assert gap.max() < 1e-6 and np.abs(first.points).max(0) == pytest.approx((0.03, 0.04, 0.05), abs=1e-6)
    monkeypatch.setattr(surface, "_drawn", None)  # it is not computed again
    assert np.array_equal(surface.load_surface(box_models, 1).points, first.points)


def test_a_point_cloud_has_no_surface(tmp_path):
    from training.data.surface import load_surface

    trimesh = pytest.importorskip("trimesh")
    trimesh.PointCloud(np.random.default_rng(0).random((10, 3))).export(tmp_path / "obj_000002.ply")
    with pytest.raises(ValueError, match=r"obj_000002\.ply: wanted a mesh with faces"):
        load_surface(tmp_path, 2)


def test_codes_of_another_mesh_are_refused(box_models, tmp_path):
    from training.data.surface import load_surface

    trimesh = pytest.importorskip("trimesh")
    shutil.copytree(box_models, tmp_path / "models")
    load_surface(tmp_path / "models", 1)
    trimesh.creation.box((60, 80, 101)).export(tmp_path / "models" / "obj_000001.ply")
    with pytest.raises(ValueError, match=r"object_000001\.npz: wanted codes of .*another mesh"):
        load_surface(tmp_path / "models", 1)


def box_model(symmetries=None):
    size = np.array([0.06, 0.08, 0.1])
    more = {} if symmetries is None else {"symmetries": symmetries}
    return ObjectModel(
        1, "box", float(np.linalg.norm(size)), np.zeros(3), size, box_corners(np.zeros(3), size), **more
    )


def seen_box(pose, K, shape):
    """Label map and depth (H, W) of the box, by casting rays."""
    from training.data.tiles import TileInstance

    v, u = np.mgrid[: shape[0], : shape[1]]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(shape)], -1)
    start, way = -pose[:3, :3].T @ pose[:3, 3], rays @ pose[:3, :3]
    half = np.array([0.03, 0.04, 0.05])
    low, high = (np.sort([(-half - start) / way, (half - start) / way], axis=0)[i] for i in (0, 1))
    enter, leave = low.max(-1), high.min(-1)
    hit = enter < leave
    instance = TileInstance(1, pose, 1.0, 1, 60.0)
    return hit.astype(np.uint8), np.where(hit, enter, 0.0), instance


K = np.array([[300.0, 0, 40], [0, 300, 40], [0, 0, 1]])
POSE = make_pose(from_rotation_vector((0.4, 0.8, -0.3)), (0.01, 0.0, 0.5))


def test_pixels_see_the_codes_of_where_their_rays_meet_the_surface(box_models):
    from training.data.surface import CodeReader, load_surface

    surface = load_surface(box_models, 1)
    labels, depth, instance = seen_box(POSE, K, (80, 80))
    (codes,) = CodeReader([box_model()], {1: surface}).codes(labels, depth, K, [instance], "x")
    v, u = np.nonzero(labels)
    points = surface.points[codes[v, u]] @ POSE[:3, :3].T + POSE[:3, 3]
    pixels = points[:, :2] / points[:, 2:] * 300 + 40
    assert len(v) > 400 and np.abs(pixels - np.stack([u, v], -1)).max() < 1.0  # points lie 0.5 mm apart


def test_symmetric_poses_have_the_same_codes(box_models):
    from training.data.surface import CodeReader, load_surface

    turn = make_pose(np.diag([-1.0, -1, 1]), np.zeros(3))
    reader = CodeReader([box_model(expand_symmetries([turn]))], {1: load_surface(box_models, 1)})
    labels, depth, instance = seen_box(POSE, K, (80, 80))
    turned = dataclasses.replace(instance, T_camera_object=POSE @ turn)
    assert np.array_equal(
        reader.codes(labels, depth, K, [instance], "x"), reader.codes(labels, depth, K, [turned], "x")
    )


def test_a_depth_that_does_not_fit_is_refused_by_name(box_models):
    from training.data.surface import CodeReader, load_surface

    labels, depth, instance = seen_box(POSE, K, (80, 80))
    reader = CodeReader([box_model()], {1: load_surface(box_models, 1)})
    with pytest.raises(DatasetError, match=r"000007\.png: object 1: wanted depth .* found 100% .*--depth"):
        reader.codes(labels, depth * 1.3, K, [instance], "000007.png")
