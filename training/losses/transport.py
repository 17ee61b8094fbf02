# SPDX-License-Identifier: Apache-2.0
"""Entropic optimal transport between small clouds of local predictions: the distance that ADLP minimises.

Problem b moves masses a_s at points x_s onto masses b_t at points y_t, at the cost 1/2 |x - y|^2:

    OT(a, b) = min_P  <P, C> + eps KL(P | a b^T)  [+ rho KL(P 1 | a) + rho KL(P^T 1 | b)]

and its debiased divergence is OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 + eps (sum a - sum b)^2 / 2, which is 0
for equal clouds. Without rho all mass must be moved (balanced). Sources: Cuturi 2013; Chizat et al. 2018;
Sejourne et al. 2019 (divergence) and 2022 (translation).

Convention: one point against one, both of mass 1, at distance 0.2, balanced: 0.02, and the gradient at x
has length 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import threshold

MARGINAL_ERROR = 1e-3  # balanced: solved when the plan's L1 error is below this share of the mass
POTENTIAL_CHANGE = 1e-3  # unbalanced: solved when a sweep changes no potential by more than this share of eps
MAX_SWEEPS = 500
STAGE = 2.0  # factor by which eps falls from one stage to the next; each stage has STAGE_SWEEPS sweeps
STAGE_SWEEPS = 4
BLOCK = 8  # sweeps over the plan itself between two sweeps over its logarithm
GOOD_GUESS = 0.5  # error, as above, below which guessed potentials are a better start than none
LEAST = 1e-20  # least mass that a row of a plan is assumed to hold, so that its scaling is finite
FAR = 1e30  # largest scaling; 32 bits can hold it
FAINT = -60.0  # logarithm of the largest entry of a plan that is set to 0, since denormal numbers are slow
NO_MASS = -80.0  # logarithm of padding's mass


@dataclass(frozen=True)
class Solution:
    """plan (B, S, T); potentials f (B, S) and g (B, T); value (B,): OT; solved (B,) bool; sweeps: number of
    sweeps that were done."""

    plan: torch.Tensor
    f: torch.Tensor
    g: torch.Tensor
    value: torch.Tensor
    solved: torch.Tensor
    sweeps: int


def squared_cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the costs 1/2 |x - y|^2 (B, S, T), from the differences: |x|^2 - 2 x y + |y|^2 would lose all
    digits."""
    if x.shape[2] > 4:  # 2.5 times as fast for the 16 of surface codes, slower for the 2 of votes
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.square_().mul_(0.5)
    cost = x.new_zeros(len(x), x.shape[1], y.shape[1])
    for axis in range(x.shape[2]):
        cost.add_((x[:, :, None, axis] - y[:, None, :, axis]).square_(), alpha=0.5)
    return cost


def log_sum(logarithms: torch.Tensor, dim: int) -> torch.Tensor:
    """Return logsumexp, ten times as fast where most terms are negligible: exp that underflows is slow."""
    top = logarithms.amax(dim, keepdim=True)
    return (logarithms - top).clamp_(min=FAINT).exp_().sum(dim).log_().add_(top.squeeze(dim))


@dataclass
class Sinkhorn:
    """The state of the iteration: the logarithm of the plans, and the potentials that belong to it.

    log_plan = log a + log b + (f + g - cost) / eps holds at all times, but log_plan is updated, not computed
    from the right-hand side: f / eps may be 1e5, of which 32 bits keep two digits after the point. Problems
    are the last dimension, log_plan (S, T, B), f and log_a (S, B), so that sums over few points access memory
    in order.
    """

    log_plan: torch.Tensor
    f: torch.Tensor
    g: torch.Tensor
    log_a: torch.Tensor
    log_b: torch.Tensor
    eps: float
    rho: float | None

    @classmethod
    def start(cls, cost, a, b, eps: float, rho: float | None, f=None, g=None) -> Sinkhorn:
        """Return plans at potentials f (B, S) and g (B, T), or at 0. cost (B, S, T), a (B, S), b (B, T)."""
        log_a, log_b = (mass.T.log().clamp_(min=NO_MASS).contiguous() for mass in (a, b))
        f = torch.zeros_like(log_a) if f is None else f.T.clone(memory_format=torch.contiguous_format)
        g = torch.zeros_like(log_b) if g is None else g.T.clone(memory_format=torch.contiguous_format)
        log_plan = (f[:, None] + g).sub_(cost.permute(1, 2, 0)).div_(eps)
        return cls(log_plan.add_(log_a[:, None] + log_b), f, g, log_a, log_b, eps, rho)

    def set_eps(self, eps: float) -> None:
        """Change eps and keep the potentials."""
        prior = self.log_a[:, None] + self.log_b
        self.log_plan = prior.lerp_(self.log_plan, self.eps / eps)
        self.eps = eps

    def plan(self) -> torch.Tensor:
        """Return the plan (S, T, B), with 0 for negligible entries."""
        return threshold(self.log_plan, FAINT, -torch.inf).exp_()

    def sweep(self, step: float = 1.0) -> torch.Tensor:
        """Scale rows, then columns, by ``step`` times the correction that fits their masses; return the error
        of the rows before it (B,): see MARGINAL_ERROR and POTENTIAL_CHANGE."""
        rows = log_sum(self.log_plan, 1)
        up = self._scaling(self.f, self.log_a - rows, step)
        self.log_plan += up[:, None]
        across = self._scaling(self.g, self.log_b - log_sum(self.log_plan, 0), step)
        self.log_plan += across
        if self.rho is None:
            return self._row_error(rows.exp())
        shift = self._translate(self.rho) / self.eps
        change_f = ((up + shift).abs() * (self.log_a > NO_MASS)).amax(0)
        return torch.maximum(change_f, ((across - shift).abs() * (self.log_b > NO_MASS)).amax(0))

    def sweep_often(self, count: int) -> None:
        """Do ``count`` sweeps with 1.5 times the correction, of which half as many are needed (Thibault et
        al. 2021).

        Balanced problems are scaled in the plan itself, which is cheaper; entries that are too small for 32
        bits are left until the next sweep over the logarithm.
        """
        if self.rho is not None:
            for _ in range(count):
                self.sweep(1.5)
            return
        plan = self.plan()
        masses = self.log_a.exp()[:, None], self.log_b.exp()[None]
        scales = [torch.ones_like(mass) for mass in masses]
        for _ in range(count):
            for axis, mass, total in ((1, masses[0], scales[0]), (0, masses[1], scales[1])):
                scale = mass / plan.sum(axis, keepdim=True).clamp_(min=LEAST)
                scale *= scale.sqrt()
                total *= scale
                plan *= scale
        for log_scale, potential, axis in ((scales[0], self.f, 1), (scales[1], self.g, 0)):
            log_scale.clamp_(1 / FAR, FAR).log_()
            potential.add_(log_scale.squeeze(axis), alpha=self.eps)
            self.log_plan += log_scale

    def sweep_symmetric(self, plan: torch.Tensor) -> torch.Tensor:
        """Sweep a cloud against itself, where f = g: scale rows and columns of ``plan`` by half of the
        correction at once; return the error of the rows before it (B,). It works on the plan itself, whose
        diagonal is never negligible."""
        rows = plan.sum(1)
        half = self._scaling(self.f, self.log_a - rows.clamp(min=LEAST).log_(), 0.5)
        scale = half.exp()
        plan *= scale[:, None]
        plan *= scale
        if self.rho is None:
            return self._row_error(rows)
        return (half.abs() * (self.log_a > NO_MASS)).amax(0) * 2

    def _row_error(self, rows: torch.Tensor) -> torch.Tensor:
        mass = self.log_a.exp()
        return (rows - mass).abs_().sum(0) / mass.sum(0)

    def _scaling(self, potential: torch.Tensor, gap: torch.Tensor, step: float = 1.0) -> torch.Tensor:
        """Return the logarithm of the scaling that closes a gap between logarithms of mass, as far as rho
        allows, times ``step``; add it to the potential."""
        if self.rho is not None:
            gap = (self.rho * gap - potential) / (self.rho + self.eps)
        gap = gap * step
        potential.add_(gap, alpha=self.eps)
        return gap

    def _translate(self, rho: float) -> torch.Tensor:
        """Add the best constant for the masses to f and subtract it from g; the plan does not change.

        Alternating sweeps alone would need rho / eps sweeps for it. It is computed in 64 bits, since the sums
        differ by about eps.
        """
        left = torch.logsumexp(self.log_a.double() - self.f.double() / rho, 0)
        right = torch.logsumexp(self.log_b.double() - self.g.double() / rho, 0)
        shift = ((left - right) * (rho / 2)).float()
        self.f += shift
        self.g -= shift
        return shift

    def select(self, index: torch.Tensor) -> Sinkhorn:
        """Return some of the problems; ``put`` writes them back."""

        def part(values: torch.Tensor) -> torch.Tensor:
            return values.index_select(-1, index)

        log_a, log_b = part(self.log_a), part(self.log_b)
        return Sinkhorn(part(self.log_plan), part(self.f), part(self.g), log_a, log_b, self.eps, self.rho)

    def put(self, index: torch.Tensor, part: Sinkhorn) -> None:
        for name in ("log_plan", "f", "g"):
            getattr(self, name).index_copy_(-1, index, getattr(part, name))


def transport(
    cost, a, b, eps: float, rho: float | None = None, max_sweeps: int = MAX_SWEEPS, guess=None
) -> Solution:
    """Solve B problems: cost (B, S, T); masses a (B, S) and b (B, T), where 0 is padding.

    A problem without mass on one side has plan and value 0. guess: potentials (B, S) and (B, T), where those
    problems start for which they are good. The others lower eps in stages: started at the last eps, they
    would need thousands of sweeps.
    """
    with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
        cost, a, b = _prepared(cost, a, b)
        stages = [eps]
        while stages[-1] < (float(cost.amax()) if cost.numel() else 0.0):
            stages.append(stages[-1] * STAGE)
        state, sweeps = Sinkhorn.start(cost, a, b, stages[-1], rho), 0
        of_stage = max(1, min(STAGE_SWEEPS, max_sweeps // len(stages)))
        for stage in reversed(stages[1:]):
            state.set_eps(stage)
            state.sweep_often(of_stage)
            sweeps += of_stage
        state.set_eps(eps)
        if guess is not None:
            guessed = Sinkhorn.start(cost, a, b, eps, rho, *guess)
            good = (guessed.sweep() < GOOD_GUESS).nonzero().squeeze(1)
            state.put(good, guessed.select(good))
        solved, sweeps = finish(state, a, b, sweeps, max_sweeps)
        return _solution(state, state.plan(), a, b, solved, sweeps)


def transport_to_itself(
    cost, a, eps: float, rho: float | None = None, max_sweeps: int = MAX_SWEEPS
) -> Solution:
    """Solve B problems of a cloud against itself: cost (B, S, S), symmetric; a (B, S), 0 for padding."""
    with torch.no_grad(), torch.autocast(cost.device.type, enabled=False):
        cost, a, _ = _prepared(cost, a, a)
        # Start with every point at itself, the solution where points lie far apart: no stages are needed.
        f = a.log().clamp_(min=NO_MASS).mul_(-eps / 2)
        state = Sinkhorn.start(cost, a, a, eps, rho, f, f)
        plan, sweeps, solved = state.plan(), 0, (empty := (a <= 0).all(1))
        while sweeps < max_sweeps and not (sweeps % 4 == 0 and solved.all()):
            solved = (state.sweep_symmetric(plan) < _limit(rho)) | empty
            sweeps += 1
        state.g = state.f
        return _solution(state, plan, a, a, solved, sweeps)


def _prepared(cost, a, b):
    """Return cost and masses in 32 bits; the cost of padding is 0."""
    cost, a, b = cost.float(), a.float(), b.float()
    return torch.where((a > 0)[:, :, None] & (b > 0)[:, None, :], cost, 0.0), a, b


def _limit(rho: float | None) -> float:
    return MARGINAL_ERROR if rho is None else POTENTIAL_CHANGE


def finish(state: Sinkhorn, a, b, sweeps: int, max_sweeps: int) -> tuple[torch.Tensor, int]:
    """Sweep until all problems are solved, leaving out those that are solved already. Return which are solved
    (B,), and the total number of sweeps."""
    limit, has_mass = _limit(state.rho), (a > 0).any(1) & (b > 0).any(1)
    solved, active = ~has_mass, has_mass.nonzero().squeeze(1)
    part = state.select(active)
    while len(active):
        done = part.sweep() < limit
        sweeps += 1
        if done.any():
            state.put(active, part)
            solved[active[done]] = True
            active = active[~done]
            part = state.select(active)
        if sweeps >= max_sweeps:
            break
        part.sweep_often(BLOCK)
        sweeps += BLOCK
    state.put(active, part)
    return solved, sweeps


def _solution(state: Sinkhorn, plan: torch.Tensor, a, b, solved, sweeps: int) -> Solution:
    eps, rho, f, g = state.eps, state.rho, state.f.T * (a > 0), state.g.T * (b > 0)
    has_mass = (a > 0).any(1) & (b > 0).any(1)
    plan = plan.permute(2, 0, 1)  # padding's entries are 0
    value = (a * paid(f, rho)).sum(1) + (b * paid(g, rho)).sum(1)
    value = value - eps * (plan.sum((1, 2)) - a.sum(1) * b.sum(1))
    return Solution(plan, f, g, torch.where(has_mass, value, 0.0), solved, sweeps)


def paid(potential: torch.Tensor, rho: float | None) -> torch.Tensor:
    """Return how much a unit of mass with this potential adds to the value: the potential, reduced where rho
    lets mass be destroyed."""
    return potential if rho is None else -rho * torch.expm1(-potential / rho)


def kept(potential: torch.Tensor, rho: float | None) -> torch.Tensor:
    """Return the share of a unit of mass with this potential that the plan moves."""
    return torch.ones_like(potential) if rho is None else torch.exp(-potential / rho)


def sinkhorn_divergence(
    x: torch.Tensor,
    a: torch.Tensor,
    y: torch.Tensor,
    b: torch.Tensor,
    eps: float,
    rho: float | None = None,
    max_sweeps: int = MAX_SWEEPS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the debiased divergences (B,) of clouds x (B, S, D) with masses a (B, S) from clouds y (B, T, D)
    with masses b (B, T), and which are solved (B,) bool; the others are the state after ``max_sweeps``.

    Mass 0 is padding; a cloud without any mass has divergence 0. Gradients go to x and a only. By the
    envelope theorem they need no derivative of the sweeps: with the plan P, the gradient at x_s is sum_t P_st
    (x_s - y_t), minus the same sum against its own cloud. Raises ValueError for masses that differ in a
    balanced problem, and for a y or b that requires a gradient.
    """
    if y.requires_grad or b.requires_grad:
        raise ValueError("sinkhorn_divergence: wanted y and b without gradient, found one; detach them")
    if rho is None:
        gap = (a.detach().float().sum(1) - b.float().sum(1)).abs() * ((a > 0).any(1) & (b > 0).any(1))
        if (gap > MARGINAL_ERROR * b.float().sum(1)).any():
            raise ValueError(
                "sinkhorn_divergence: wanted equal masses for balanced transport, "
                f"found sums {a.sum(1)[gap.argmax()].item():.4g} and {b.sum(1)[gap.argmax()].item():.4g}"
            )
    return _Divergence.apply(x, a, y, b, eps, rho, max_sweeps)


class _Divergence(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def forward(ctx, x, a, y, b, eps, rho, max_sweeps):
        kind = x.dtype, a.dtype
        x, a, y, b = x.float(), a.float(), y.float(), b.float()
        own, other = _both_to_themselves(x, a, y, b, eps, rho, max_sweeps)
        # The potentials of each cloud alone solve equal clouds, and are a good start for nearly equal ones.
        cross = transport(squared_cost(x, y), a, b, eps, rho, max_sweeps, guess=(own.f, other.f))
        has_mass = (a > 0).any(1) & (b > 0).any(1)
        value = cross.value - own.value / 2 - other.value / 2
        if rho is not None:
            value = value + eps / 2 * (a.sum(1) - b.sum(1)) ** 2
        rows = cross.plan.sum(2) - own.plan.sum(2)
        by_x = rows[..., None] * x - torch.bmm(cross.plan, y) + torch.bmm(own.plan, x)
        by_a = paid(cross.f, rho) - paid(own.f, rho) - eps * (kept(cross.f, rho) - kept(own.f, rho))
        ctx.save_for_backward(
            torch.where(has_mass[:, None, None], by_x, 0.0).to(kind[0]),
            torch.where(has_mass[:, None] & (a > 0), by_a, 0.0).to(kind[1]),
        )
        solved = cross.solved & own.solved & other.solved
        ctx.mark_non_differentiable(solved)
        return torch.where(has_mass, value, 0.0), solved

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_value, _by_solved):
        by_x, by_a = ctx.saved_tensors
        return by_value[:, None, None] * by_x, by_value[:, None] * by_a, None, None, None, None, None


def _both_to_themselves(x, a, y, b, eps, rho, max_sweeps) -> tuple[Solution, Solution]:
    """Return the solutions of both clouds against themselves, in one call if they have the same shape."""
    if x.shape != y.shape:
        own = transport_to_itself(squared_cost(x, x), a, eps, rho, max_sweeps)
        return own, transport_to_itself(squared_cost(y, y), b, eps, rho, max_sweeps)
    points, masses = torch.cat([x, y]), torch.cat([a, b])
    both = transport_to_itself(squared_cost(points, points), masses, eps, rho, max_sweeps)
    plan, f, g, value, solved = (t.chunk(2) for t in (both.plan, both.f, both.g, both.value, both.solved))
    first, second = (Solution(plan[i], f[i], g[i], value[i], solved[i], both.sweeps) for i in range(2))
    return first, second
