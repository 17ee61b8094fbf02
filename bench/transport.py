# SPDX-License-Identifier: Apache-2.0
"""Compare our Sinkhorn divergence with geomloss and POT on the problems of distillation: accuracy and time.

    pip install geomloss        # only for this
    python -m bench.transport [--out docs/results/transport.json]

Keypoints: 128 problems (16 images x 8 keypoints) of 10 x 10 points, normalised by the crop. Dense: 16
problems of 112 x 112 points in 16 dimensions, the most that pooling leaves of a crop of 256 px.
``pull_error`` compares the gradient at the student's points, sum_t P_st (x_s - y_t), with that of a plan
computed in 64 bits (16 problems): by POT's linear program at eps 1e-6 and 1e-5, by POT's Sinkhorn above.
Times are of the debiased loss with its gradient, on one thread: the best of fifteen runs in which the solvers
alternate, so that other load on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import ot
import torch
from geomloss import SamplesLoss

from bench.rows import common
from training.losses.transport import sinkhorn_divergence as divergence
from training.losses.transport import squared_cost, transport

Key = TypeVar("Key")
COMPARED = 16  # problems for which exact plans are computed
CASES = (("keypoints", 128, 10, 2, 0.02), ("dense", 16, 112, 16, 0.15))
EPS = {"keypoints": (1e-6, 1e-5, 1e-4), "dense": (1e-2, 1e-1)}


def problem(
    count: int, points: int, axes: int, spread: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, a, y, b: two clouds around the same centre, with masses of sum 1."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(count, 1, axes, generator=generator) * 0.5 + 0.25
    x, y = (centre + torch.randn(count, points, axes, generator=generator) * spread for _ in range(2))
    a, b = (torch.rand(count, points, generator=generator) + 0.1 for _ in range(2))
    return x, a / a.sum(1, keepdim=True), y, b / b.sum(1, keepdim=True)


def pull(plan: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return plan.sum(2, keepdim=True) * x - plan @ y


def exact_pull(x, a, y, b, eps: float) -> torch.Tensor:
    x, a, y, b = (t[:COMPARED].double() for t in (x, a, y, b))
    plans = []
    for cost, row, column in zip(squared_cost(x, y).numpy(), a.numpy(), b.numpy()):
        row, column = row / row.sum(), column / column.sum()
        if eps < 5e-5:
            plans.append(ot.emd(row, column, cost))
        else:
            plans.append(
                ot.sinkhorn(
                    row, column, cost, eps, "sinkhorn_log", numItermax=5_000, stopThr=1e-9, warn=False
                )
            )
    return pull(torch.from_numpy(np.array(plans)), x, y)


def best_ms(runs: Mapping[Key, Callable[[], object]], repeats: int = 15) -> dict[Key, float]:
    """Return each run's best time, milliseconds. The runs alternate, and a first round does not count."""
    times: dict[Key, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(found[1:]) for name, found in times.items()}


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def with_gradient(loss, x):
    return torch.autograd.grad(loss(x).sum(), x)[0]


def row(case: str, eps: float, solver: str, setting: str, ms: float, **figures) -> dict:
    return common(f"{case}, eps {eps:g}: {solver}, {setting}", "adlp", case, "random clouds", "synthetic") | {
        "ms": ms,
        **figures,
    }


def rows(case: str, count: int, points: int, axes: int, spread: float, eps: float) -> list[dict]:
    x, a, y, b = problem(count, points, axes, spread)
    x.requires_grad_()
    exact = exact_pull(x.detach(), a, y, b, eps)
    found: dict[tuple[str, str], dict[str, float]] = {}
    runs: dict[tuple[str, str], Callable[[], torch.Tensor]] = {}

    def add(solver, setting, pulled, solved, loss):
        found[solver, setting] = {"pull_error": error(pulled, exact), **solved}
        runs[solver, setting] = lambda: with_gradient(loss, x)

    for sweeps in (10, 40, 100, 500):
        solution = transport(squared_cost(x.detach(), y), a, b, eps, max_sweeps=sweeps)
        pulled, solved = pull(solution.plan, x.detach(), y)[:COMPARED], float(solution.solved.float().mean())

        def ours(p, n=sweeps):
            return divergence(p, a, y, b, eps, None, n)[0]

        add("ours", f"at most {sweeps} sweeps", pulled, {"solved": solved}, ours)
    for scaling in (0.5, 0.9):
        options = {"p": 2, "blur": eps**0.5, "scaling": scaling, "backend": "tensorized"}
        plain = SamplesLoss("sinkhorn", debias=False, **options)
        debiased = SamplesLoss("sinkhorn", **options)
        pulled = with_gradient(lambda p, d=plain: d(a, p, b, y), x)[:COMPARED]
        add("geomloss", f"scaling {scaling}", pulled, {}, lambda p, d=debiased: d(a, p, b, y))
    return [
        row(case, eps, solver, setting, ms, **found[solver, setting])
        for (solver, setting), ms in best_ms(runs).items()
    ]


def pot_ms(x, a, y, b, eps: float) -> float:
    """Return the time of POT's Sinkhorn: 100 sweeps of each problem, one by one, not debiased, no
    gradient."""
    problems = list(zip(a.double().numpy(), b.double().numpy(), squared_cost(x, y).double().numpy()))

    def run():
        for row, column, cost in problems:
            row, column = row / row.sum(), column / column.sum()
            ot.sinkhorn(row, column, cost, eps, "sinkhorn_log", numItermax=100, warn=False)

    return best_ms({"POT": run}, 1)["POT"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    results = []
    for case in CASES:
        for eps in EPS[case[0]]:
            found = rows(*case, eps)
            x, a, y, b = problem(*case[1:])
            found.append(row(case[0], eps, "POT", "100 sweeps, one by one", pot_ms(x, a, y, b, eps)))
            reference = next(r["ms"] for r in found if r["name"].endswith("scaling 0.9"))
            for line in found:
                line["times_faster_than_geomloss_09"] = reference / line["ms"]
                print(line["name"], {k: float(f"{v:.4g}") for k, v in line.items() if isinstance(v, float)})
            results += found
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
