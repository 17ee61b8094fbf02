"""`python -m training.render --out data/cube --split train --count 1000`: renders a BOP data set of a mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from training.render.config import RenderConfig
from training.render.dataset import render_dataset


@dataclass(frozen=True)
class Arguments:
    """Renders a BOP data set of a mesh, or of the procedural cube."""

    out: Path
    """Folder of the data set."""
    split: str = "train"
    """Name of the part, a folder in `out`."""
    count: int = 1000
    """Images."""
    seed: int = 1
    workers: int = 1
    """Processes; more than one gives each a single thread."""
    render: tyro.conf.OmitArgPrefixes[RenderConfig] = field(default_factory=RenderConfig)


def main() -> None:
    """Command line entry."""
    args = tyro.cli(Arguments)
    try:
        render_dataset(args.render, args.out, args.split, args.count, args.seed, args.workers)
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on where this one was") from None


if __name__ == "__main__":
    main()
