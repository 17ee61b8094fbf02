# SPDX-License-Identifier: Apache-2.0
"""Optimal transport against POT and against what must be true of it."""

import numpy as np
import ot
import pytest
import torch

from training.losses import transport as module
from training.losses.transport import sinkhorn_divergence, squared_cost, transport, transport_to_itself

RHO = 0.25


def clouds(problems=6, s=7, t=5, spread=0.05, axes=2, seed=0):
    """x, a, y, b with masses that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(problems, n, axes, generator=generator) * spread + 0.5 for n in (s, t))
    a, b = (torch.rand(problems, n, generator=generator) + 0.1 for n in (s, t))
    return x, a / a.sum(1, keepdim=True), y, b / b.sum(1, keepdim=True)


def exact_values(x, a, y, b):
    """Without entropy, by linear programming, in 64 bits."""
    cost = squared_cost(x.double(), y.double()).numpy()
    a, b = (m.double().numpy() / m.double().sum(1, keepdim=True).numpy() for m in (a, b))
    return np.array([ot.emd2(*problem) for problem in zip(a, b, cost)])


def test_one_point_against_one_is_half_the_squared_distance():
    one, there = torch.ones(1, 1), torch.tensor([[[0.2, 0.0]]])
    x = torch.zeros(1, 1, 2, requires_grad=True)
    value, solved = sinkhorn_divergence(x, one, there, one, 1e-6)
    value.sum().backward()
    assert solved.all() and value.item() == pytest.approx(0.02, rel=1e-5)
    np.testing.assert_allclose(x.grad[0, 0], [-0.2, 0.0], atol=1e-6)


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-4])
def test_values_lie_above_linear_programming_by_no_more_than_the_entropy(eps):
    """KL(P | a b^T) is at most log 10 for ten points."""
    x, a, y, b = clouds(problems=32, s=10, t=10, spread=0.02)
    solution = transport(squared_cost(x, y), a, b, eps)
    over = (solution.value.double().numpy() - exact_values(x, a, y, b))[solution.solved]
    assert len(over) > 16 and (over > -1e-7).all() and (over < eps * np.log(10)).all()


@pytest.mark.parametrize("seed", range(3))
def test_balanced_plans_and_values_agree_with_pot(seed):
    x, a, y, b = clouds(seed=seed)
    eps, cost = 1e-3, squared_cost(x, y)
    solution = transport(cost, a, b, eps)
    for i in range(len(x)):
        row, column = a[i].double().numpy(), b[i].double().numpy()
        row, column = row / row.sum(), column / column.sum()
        plan = ot.sinkhorn(row, column, cost[i].double().numpy(), eps, numItermax=100_000, stopThr=1e-12)
        np.testing.assert_allclose(solution.plan[i], plan, atol=1e-3)
        prior = np.outer(row, column)
        value = (plan * cost[i].numpy()).sum() + eps * (plan * np.log(plan / prior + 1e-300)).sum()
        assert solution.value[i].item() == pytest.approx(value, rel=1e-3)


def test_unbalanced_plans_agree_with_pot():
    x, a, y, b = clouds()
    a, b = a * 3, b * 2
    eps, cost = 1e-3, squared_cost(x, y)
    solution = transport(cost, a, b, eps, RHO)
    assert solution.solved.all()
    for i in range(len(x)):
        row, column = a[i].double().numpy(), b[i].double().numpy()
        plan = ot.unbalanced.sinkhorn_unbalanced(
            row, column, cost[i].double().numpy(), eps, RHO, numItermax=200_000, stopThr=1e-12, reg_type="kl"
        )
        np.testing.assert_allclose(solution.plan[i], plan, atol=2e-3)


@pytest.mark.parametrize("eps", [1e-4, 1e-5, 1e-6])
def test_solved_means_that_the_marginals_hold(eps):
    x, a, y, b = clouds(problems=32, s=10, t=10, spread=0.02)
    solution = transport(squared_cost(x, y), a, b, eps)
    rows, columns = ((solution.plan.sum(i) - m).abs().sum(1) for i, m in ((2, a), (1, b)))
    assert solution.solved.float().mean() > 0.5
    assert (rows + columns)[solution.solved].max() < 2 * module.MARGINAL_ERROR


def test_what_the_sweeps_did_not_solve_is_reported():
    x, a, y, b = clouds(problems=8, s=10, t=10)
    assert not transport(squared_cost(x, y), a, b, 1e-7, max_sweeps=1).solved.any()


@pytest.mark.parametrize("rho", [None, RHO])
@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-3])
def test_equal_clouds_are_at_zero_without_a_pull(rho, eps):
    """And solved: rounding must not keep the potentials moving."""
    x, a, _, _ = clouds(problems=32, s=8, spread=0.05)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moving, mass = x.clone().requires_grad_(), a.clone().requires_grad_()
    value, solved = sinkhorn_divergence(moving, mass, x[:, order], a[:, order], eps, rho)
    value.sum().backward()
    assert solved.all()
    assert value.abs().max() < 3e-3 * eps
    assert moving.grad.abs().max() < 0.02 * eps**0.5
    assert (mass.grad - mass.grad.mean(1, keepdim=True)).abs().max() < eps / 20


@pytest.mark.parametrize("rho", [None, RHO])
def test_permuting_either_side_changes_nothing(rho):
    x, a, y, b = clouds()
    value, _ = sinkhorn_divergence(x, a, y, b, 1e-4, rho)
    for_x, for_y = torch.randperm(7), torch.randperm(5)
    other, _ = sinkhorn_divergence(x[:, for_x], a[:, for_x], y[:, for_y], b[:, for_y], 1e-4, rho)
    torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-8)


def test_the_pull_on_a_point_is_what_the_exact_plan_says():
    x, a, y, b = clouds(problems=3, s=4, t=4)
    x.requires_grad_()
    value, solved = sinkhorn_divergence(x, a, y, b, 1e-6)
    value.sum().backward()
    assert solved.all()
    cost = squared_cost(x.detach().double(), y.double()).numpy()
    for i in range(len(x)):
        row, column = (m[i].double().numpy() / m[i].double().sum().item() for m in (a, b))
        plan = torch.from_numpy(ot.emd(row, column, cost[i]))
        points = x[i].detach().double()
        pull = (plan[:, :, None] * (points[:, None] - y[i].double()[None])).sum(1)
        torch.testing.assert_close(x.grad[i].double(), pull, atol=3e-5, rtol=1e-2)  # the own plan is diagonal


@pytest.mark.parametrize("rho", [None, RHO])
def test_gradients_of_points_and_masses_against_finite_differences(rho):
    x, a, y, b = clouds(problems=1, s=3, t=4, spread=0.2)
    if rho:
        a, b = a * 1.5, b * 0.7
    eps, step = 1e-2, 2e-3

    def value(points, masses):
        return sinkhorn_divergence(points, masses, y, b, eps, rho)[0].sum()

    x.requires_grad_()
    a.requires_grad_()
    by_x, by_a = torch.autograd.grad(value(x, a), (x, a))
    with torch.no_grad():
        for i in range(3):
            move = torch.zeros_like(x)
            move[0, i, 0] = step
            slope = (value(x + move, a) - value(x - move, a)) / (2 * step)
            assert by_x[0, i, 0].item() == pytest.approx(slope.item(), rel=0.02, abs=2e-4)
            shift = torch.zeros_like(a)  # of mass from one point to the next: the sum stays
            shift[0, i], shift[0, (i + 1) % 3] = step, -step
            slope = (value(x, a + shift) - value(x, a - shift)) / (2 * step)
            assert (by_a * shift).sum().item() / step == pytest.approx(slope.item(), rel=0.02, abs=2e-4)


def test_a_total_of_mass_has_its_gradient_where_it_may_differ():
    x, a, y, b = clouds(problems=1, s=3, t=4, spread=0.2)
    a, b = a * 1.5, b * 0.7
    a.requires_grad_()
    grown, _ = sinkhorn_divergence(x, a * 1.01, y, b, 1e-2, RHO)
    shrunk, _ = sinkhorn_divergence(x, a * 0.99, y, b, 1e-2, RHO)
    (by_a,) = torch.autograd.grad(sinkhorn_divergence(x, a, y, b, 1e-2, RHO)[0].sum(), a)
    assert (by_a * a).sum().item() == pytest.approx((grown - shrunk).item() / 0.02, rel=0.01)


@pytest.mark.parametrize("rho", [None, RHO])
def test_padding_changes_nothing_and_gets_no_gradient(rho):
    x, a, y, b = clouds()
    wide = torch.cat([x, torch.full((6, 3, 2), 1e3)], 1).requires_grad_()
    padded = torch.cat([a, torch.zeros(6, 3)], 1).requires_grad_()
    value, _ = sinkhorn_divergence(x, a, y, b, 1e-4, rho)
    other, _ = sinkhorn_divergence(
        wide, padded, torch.cat([y, torch.zeros(6, 4, 2)], 1), torch.cat([b, torch.zeros(6, 4)], 1), 1e-4, rho
    )
    torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-8)
    other.sum().backward()
    assert (wide.grad[:, 7:] == 0).all() and (padded.grad[:, 7:] == 0).all()


@pytest.mark.parametrize("rho", [None, RHO])
@pytest.mark.parametrize("empty", ["student", "teacher", "both", "all"])
def test_nothing_to_move_is_a_loss_of_zero_with_finite_gradients(rho, empty):
    x, a, y, b = clouds(problems=3)
    if empty in ("student", "both"):
        a[0] = 0
    if empty in ("teacher", "both"):
        b[0] = 0
    if empty == "all":
        a[:] = 0
    x.requires_grad_()
    value, solved = sinkhorn_divergence(x, a.requires_grad_(), y, b, 1e-4, rho)
    value.sum().backward()
    assert value[0] == 0 and solved[0] and (x.grad[0] == 0).all()
    assert torch.isfinite(value).all() and torch.isfinite(x.grad).all() and torch.isfinite(a.grad).all()
    assert (value[1:] > 0).all() or empty == "all"


def test_no_points_at_all_keep_the_graph_whole():
    x = torch.zeros(0, 4, 2, requires_grad=True)
    value, solved = sinkhorn_divergence(x, torch.zeros(0, 4), torch.zeros(0, 3, 2), torch.zeros(0, 3), 1e-4)
    value.sum().backward()
    assert len(value) == len(solved) == 0 and x.grad.shape == x.shape


def test_the_teacher_is_left_alone():
    x, a, y, b = clouds()
    before = y.clone(), b.clone()
    x.requires_grad_()
    sinkhorn_divergence(x, a, y, b, 1e-4)[0].sum().backward()
    assert torch.equal(y, before[0]) and torch.equal(b, before[1]) and y.grad is None
    with pytest.raises(ValueError, match="wanted y and b without gradient"):
        sinkhorn_divergence(x, a, y.requires_grad_(), b, 1e-4)


def test_masses_that_differ_are_refused_where_all_must_be_moved():
    x, a, y, b = clouds()
    with pytest.raises(ValueError, match=r"wanted equal masses .*found sums 2 and 1"):
        sinkhorn_divergence(x, 2 * a, y, b, 1e-4)


def test_autocast_does_not_reach_it():
    x, a, y, b = clouds()
    x.requires_grad_()
    value, _ = sinkhorn_divergence(x, a, y, b, 1e-5)
    (pull,) = torch.autograd.grad(value.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        lower, _ = sinkhorn_divergence(x, a, y, b, 1e-5)
        (other,) = torch.autograd.grad(lower.sum(), x)
    assert torch.equal(value, lower) and torch.equal(pull, other)


def test_a_cost_far_above_eps_is_no_matter_for_32_bits():
    """(f + g - C) / eps would be off by percents here; the marginals of what is solved are not."""
    x, a, y, b = clouds(problems=64, s=3, t=3, spread=0.3)
    solution = transport(squared_cost(x, y), a, b, 1e-6)
    solved = solution.solved
    assert solved.float().mean() > 0.5
    assert (solution.plan.sum(2) - a).abs().sum(1)[solved].max() < 2 * module.MARGINAL_ERROR
    np.testing.assert_allclose(solution.value[solved], exact_values(x, a, y, b)[solved], rtol=2e-3)


@pytest.mark.parametrize("rho", [None, RHO])
def test_a_cloud_against_itself_is_the_general_problem(rho):
    x, a, _, _ = clouds(s=9)
    cost = squared_cost(x, x)
    special, general = transport_to_itself(cost, a, 1e-3, rho), transport(cost, a, a, 1e-3, rho)
    assert special.solved.all() and general.solved.all()
    torch.testing.assert_close(special.value, general.value, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(special.plan, general.plan, rtol=0, atol=1e-3)


def test_sixteen_axes_and_many_points():
    x, a, y, b = clouds(problems=2, s=64, t=48, spread=0.3, axes=16)
    solution = transport(squared_cost(x, y), a, b, 1e-2)
    assert solution.solved.all() and (solution.plan.sum(2) - a).abs().sum(1).max() < 2 * module.MARGINAL_ERROR
