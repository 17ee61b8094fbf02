# SPDX-License-Identifier: Apache-2.0
"""Task losses: what must be true of them whatever the network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.core.cells import cell_grid  # noqa: E402
from pose_kd_ros.core.object_model import ObjectModel, box_corners  # noqa: E402
from pose_kd_ros.core.pose import from_rotation_vector, make_pose, transform  # noqa: E402
from training.data.targets import IGNORE, Instance, collate, make_targets  # noqa: E402
from training.losses.task import cell_weights, focal_loss, keypoint_losses, surprise, vote_terms  # noqa: E402

K = np.array([[500.0, 0, 127.5], [0, 500, 127.5], [0, 0, 1]])
STRIDES = (8, 16, 32, 64)
CENTERS = cell_grid(256, 256, STRIDES)[0]


def quarter_turns():
    turns = [from_rotation_vector(np.array(axis) * np.pi / 2 * n) for axis in np.eye(3) for n in range(4)]
    group = {tuple(np.round(a @ b @ c).astype(int).ravel()) for a in turns for b in turns for c in turns}
    identity = tuple(np.eye(3, dtype=int).ravel())
    return make_pose(
        np.array([identity, *sorted(group - {identity})], float).reshape(-1, 3, 3), np.zeros((24, 3))
    )


CUBE = ObjectModel(
    1,
    "cube",
    0.1455,
    np.zeros(3),
    np.full(3, 0.084),
    box_corners((0, 0, 0), (0.084,) * 3),
    quarter_turns(),
    from_rotation_vector((2.356, 0, 0)),
)


def sample(pose, mask=None, seed=0, model=CUBE, cells="draw"):
    if mask is None:
        mask = np.zeros((256, 256), bool)
        mask[80:180, 80:180] = True
    instance, rng = Instance(0, pose, mask, 100.0), np.random.default_rng(seed)
    targets = make_targets([instance], [model], K, (256, 256), STRIDES, rng, cells)
    return {"image": torch.zeros(3, 256, 256), **targets}


def perfect(batch):
    """Offsets (B, N, 1, 8, 2) that vote for the first representative's true projections."""
    count = len(batch["cell_class"])
    offsets = torch.zeros(count, len(CENTERS), 1, 8, 2)
    for image, cell, instance in zip(batch["vote_image"], batch["vote_cell"], batch["vote_instance"]):
        pixels = batch["keypoints"][instance, 0].double() @ torch.from_numpy(K).T
        offsets[image, cell, 0] = (pixels[:, :2] / pixels[:, 2:] - torch.tensor(CENTERS[cell])).float()
    return offsets


def losses_of(batch, offsets):
    return keypoint_losses(
        torch.zeros(len(offsets), len(CENTERS), 1), offsets, torch.tensor(CENTERS).float(), batch
    )


def a_pose(seed):
    random = np.random.RandomState(seed)
    return make_pose(from_rotation_vector(random.uniform(-3, 3, 3)), [random.uniform(-0.1, 0.1), 0.02, 0.6])


def test_perfect_votes_cost_nothing_and_a_shift_of_a_pixel_costs_its_size_in_space():
    batch = collate([sample(a_pose(0))])
    offsets = perfect(batch)
    assert losses_of(batch, offsets)["vote"] < 1e-8
    one = losses_of(batch, offsets + torch.tensor([1.0, 0.0]))["vote"].item()
    # 1 px at 0.6 m and 500 px focal length is 1.2 mm, 0.0082 diameters: inside the quadratic part
    assert one == pytest.approx(0.0082**2 / (2 * 0.02), rel=0.25)


@pytest.mark.parametrize("seed", range(8))
def test_symmetric_poses_make_the_same_targets(seed):
    """R and R S train the same: whichever of the 24 poses is annotated, the tied representatives are one
    set."""
    pose = a_pose(seed)
    reference = sample(pose)
    for symmetry in CUBE.symmetries[[3, 11, 23]]:
        other = sample(pose @ symmetry)
        assert other["tied"].sum() == reference["tied"].sum()
        for keypoints in other["keypoints"][other["tied"]]:
            gaps = (reference["keypoints"][reference["tied"]] - keypoints).abs().amax((1, 2))
            assert gaps.min() < 1e-6
        offsets = perfect(collate([reference])) + 3.0
        assert losses_of(collate([other]), offsets)["vote"].item() == pytest.approx(
            losses_of(collate([reference]), offsets)["vote"].item(), rel=1e-4
        )


def test_near_a_boundary_any_tied_representative_costs_nothing():
    boundary = make_pose(
        from_rotation_vector((2.356, 0, 0)) @ from_rotation_vector((0, 0, np.pi / 4)), [0, 0, 0.6]
    )
    batch = collate([sample(boundary)])
    assert batch["tied"].sum() >= 2
    swapped = {**batch, "keypoints": batch["keypoints"][:, [1, 0, *range(2, batch["keypoints"].shape[1])]]}
    assert losses_of(batch, perfect(swapped))["vote"] < 1e-8
    mixed = (perfect(batch) + perfect(swapped)) / 2
    assert losses_of(batch, mixed)["vote"] > 0.01


def test_the_loss_knows_neither_the_batch_size_nor_the_image_order():
    samples = [sample(a_pose(i)) for i in range(3)]
    offsets = [perfect(collate([s])) + 2.0 for s in samples]
    one = losses_of(collate(samples), torch.cat(offsets))
    two = losses_of(collate(samples[::-1] * 2), torch.cat(offsets[::-1] * 2))
    for name in one:
        assert one[name].item() == pytest.approx(two[name].item(), rel=1e-5)


def test_a_batch_without_objects_gives_zero_vote_loss_and_finite_gradients():
    empty = {
        "image": torch.zeros(3, 256, 256),
        **make_targets([], [CUBE], K, (256, 256), STRIDES, np.random.default_rng(0)),
    }
    logits = torch.zeros(1, len(CENTERS), 1, requires_grad=True)
    offsets = torch.zeros(1, len(CENTERS), 1, 8, 2, requires_grad=True)
    terms = keypoint_losses(logits, offsets, torch.tensor(CENTERS).float(), collate([empty]))
    (terms["score"] + terms["vote"]).backward()
    assert terms["vote"].item() == 0 and torch.isfinite(terms["score"])
    assert torch.isfinite(logits.grad).all() and (offsets.grad == 0).all()


def test_cells_inside_the_mask_that_were_not_drawn_are_ignored():
    batch = collate([sample(a_pose(1))])
    assert (batch["cell_class"] == IGNORE).sum() > 50
    logits = torch.zeros(1, len(CENTERS), 1, requires_grad=True)
    focal_loss(logits, batch["cell_class"], cell_weights(batch)).backward()
    assert (logits.grad[batch["cell_class"].unsqueeze(-1) == IGNORE] == 0).all()
    assert (logits.grad[batch["cell_class"].unsqueeze(-1) == 0] > 0).all()
    assert (logits.grad[batch["cell_class"].unsqueeze(-1) == 1] < 0).all()


def test_votes_of_hidden_instances_are_not_asked_for():
    mask = np.zeros((256, 256), bool)
    mask[80:180, 80:180] = True
    hidden = Instance(0, a_pose(2), mask, 100.0, use=False)
    targets = make_targets([hidden], [CUBE], K, (256, 256), STRIDES, np.random.default_rng(0))
    assert len(targets["vote_cell"]) == 0 and (targets["cell_class"] == 1).sum() == 0
    assert (targets["cell_class"] == IGNORE).sum() > 50


def test_keypoints_project_back_onto_their_pose():
    pose = a_pose(3)
    keypoints = sample(pose)["keypoints"][0, 0].numpy()
    poses = pose @ CUBE.symmetries
    gaps = np.abs(transform(poses, CUBE.keypoints) - keypoints).max((1, 2))
    assert gaps.min() < 1e-6


def test_vote_loss_of_no_votes_keeps_the_graph():
    votes = torch.zeros(0, 8, 2, requires_grad=True)
    log_scale = torch.zeros(0, requires_grad=True)
    terms = vote_terms(votes, {"vote_weight": torch.zeros(0)}, log_scale=log_scale)
    (terms["vote"] + terms["likelihood"]).backward()
    assert votes.grad is not None and log_scale.grad is not None


def test_every_cell_in_the_mask_counts_as_much_as_it_would_be_drawn():
    batch = collate([sample(a_pose(1), cells="all")])
    weights, drawn = torch.zeros(len(CENTERS)), torch.zeros(len(CENTERS))
    weights[batch["vote_cell"]] = batch["vote_weight"]
    for seed in range(400):
        drawn[sample(a_pose(1), seed=seed)["vote_cell"]] += 1 / 400
    # 36, 16 and 4 of strides 16, 32 and 64; none of stride 8, whose quota is 0
    assert (weights > 0).sum() == 56 and (weights - drawn).abs().max() < 0.1
    assert weights.sum().item() == pytest.approx(drawn.sum().item(), rel=1e-4)
    logits = torch.zeros(1, len(CENTERS), 1, requires_grad=True)
    focal_loss(logits, batch["cell_class"], cell_weights(batch)).backward()
    assert torch.equal(logits.grad[0, :, 0] < 0, weights > 0)


def test_losses_of_all_cells_are_the_mean_of_those_of_the_draws():
    offsets = perfect(collate([sample(a_pose(1), cells="all")]))
    offsets += torch.randn(offsets.shape, generator=torch.manual_seed(0))
    every = losses_of(collate([sample(a_pose(1), cells="all")]), offsets)
    draws = [losses_of(collate([sample(a_pose(1), seed=seed)]), offsets) for seed in range(300)]
    for name, value in every.items():
        mean = sum(each[name] for each in draws).item() / len(draws)
        assert value.item() == pytest.approx(mean, rel=0.05)


def test_votes_for_distillation_are_those_of_the_draw():
    every, drawn = (sample(a_pose(1), cells=cells) for cells in ("all", "draw"))
    found = every["vote_cell"][every["vote_drawn"]].tolist()
    assert sorted(found) == sorted(drawn["vote_cell"].tolist()) and drawn["vote_drawn"].all()


def test_the_likelihood_is_least_where_the_scale_is_half_the_mean_error():
    """Of r / b + 2 log b, the least is at b = r / 2: the mean distance from the middle of such a Laplace
    distribution in a plane is 2 b."""
    residual = torch.zeros(1, 8, 3)
    residual[..., 0] = 0.02
    scales = torch.tensor([0.005, 0.01, 0.02]).log()
    low, best, high = (surprise(residual, scale.unsqueeze(0)).item() for scale in scales)
    assert best < low and best < high


def test_votes_that_are_off_are_less_surprising_with_a_larger_scale():
    batch = collate([sample(a_pose(0), cells="all")])
    offsets, logits = perfect(batch), torch.zeros(1, len(CENTERS), 1)
    scales = torch.full((1, len(CENTERS), 1), 0.01).log().requires_grad_()
    terms = {}
    for shift in (0.0, 40.0):
        how = (logits, offsets + shift, torch.tensor(CENTERS).float(), batch)
        terms[shift] = keypoint_losses(*how, log_scale=scales)
        (grad,) = torch.autograd.grad(terms[shift]["likelihood"], scales)
        taught = grad[0, batch["vote_cell"], 0]
        assert (taught < 0).all() if shift else (taught > 0).all()
        assert torch.equal(terms[shift]["vote"], keypoint_losses(*how)["vote"])
    assert terms[0.0]["likelihood"] < terms[40.0]["likelihood"]
