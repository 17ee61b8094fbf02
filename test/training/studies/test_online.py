# SPDX-License-Identifier: Apache-2.0
"""The table of online distillation: which runs, in which order, and that they differ in the method alone."""

import dataclasses
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training.families import Supervision, make_network  # noqa: E402
from training.fit.step import losses, prepare  # noqa: E402
from training.fit.train import make_dataset  # noqa: E402
from training.studies.online import CONTROLS, FIRST, NEW, on_backbone, online_rows  # noqa: E402
from training.studies.options import Online  # noqa: E402
from training.studies.table import as_row, make_table, write  # noqa: E402
from training.studies.variant import groups  # noqa: E402


def rows_of(**options):
    command = Online((Path("test"),), Path("out"), size=64, width=16, backbones=("darknet-tiny-h",))
    student, votes = command.students()
    return online_rows(student, 3, 0.0, command.backbones, votes, **options)


def test_what_counts_most_comes_first():
    rows = rows_of()
    assert [row.method for row in rows[:5]] == [variant.name for variant in FIRST]
    assert rows[0].method == "plain" and rows[-1].method == "fpd" and "8 stacks" in rows[-2].method
    names = [row.run.name for row in rows]
    assert len(set(names)) == len(names)
    assert [row.run.seed for row in rows if row.method == "okdhp"] == [0, 1, 2]
    for place, row in enumerate(rows):
        teacher = row.run.distill.teacher
        assert teacher is None or teacher.name in names[:place]  # it is there when it is wanted


def test_rows_of_a_stage_differ_in_the_method_alone():
    for group in groups(rows_of(), 5):
        first = group[0].run
        for row in group:
            assert row.run.network.plain == first.network.plain or "hourglass" in row.run.name
            same = ("data", "crops", "augment", "steps", "batch_size", "lr", "seed", "precision")
            assert all(getattr(row.run, name) == getattr(first, name) for name in same)


@pytest.mark.parametrize(
    "method, branches, aggregation, teacher, align, weight",
    [
        ("plain", 1, "none", "none", "kl", None),
        ("mean of branches", 3, "mean", "ensemble", "kl", 0.05),
        ("okdhp", 3, "fau-slim", "ensemble", "kl", 0.05),
        ("dml", 3, "none", "peers", "kl", 0.05),
        ("one", 3, "one", "ensemble", "kl", 0.05),
        ("okdhp, fau as published", 3, "fau", "ensemble", "kl", 0.05),
        ("okdhp, released form", 3, "fau", "ensemble", "kl", 2.0),
        ("okdhp, transport", 3, "fau-slim", "ensemble", "transport", 2.0),
    ],
)
def test_rows_are_what_their_names_say(method, branches, aggregation, teacher, align, weight):
    (run,) = (row.run for row in rows_of() if row.method == method and row.run.seed == 0)
    network, online = run.network, run.online
    assert (len(network.depths), network.aggregation) == (branches, aggregation)
    assert (online.teacher, online.align) == (teacher, align)
    assert weight in (None, run.weights.online)
    assert online.released == (method == "okdhp, released form")


@pytest.mark.parametrize("variant", [*FIRST, *CONTROLS, *NEW], ids=lambda variant: variant.name)
def test_every_variant_learns_something_finite(variant, tiny_data):
    command = Online((Path("test"),), Path("out"), data=tiny_data, objects=(1,), size=64, width=16, tile_px=0)
    run = variant.run(on_backbone(command.students()[0], "darknet-tiny-h"))
    dataset, network = make_dataset(run, "train"), make_network(run.network)
    batch = dataset.collate([dataset[i] for i in range(2)])
    outputs = network(prepare(batch), with_features=True)
    terms = losses(outputs, batch, network, Supervision(run.weights, online=run.online, watch=True))
    terms["total"].backward()
    assert ("online" in terms) == (run.online.teacher != "none")
    assert ("ensemble" in terms) == (run.network.aggregation != "none")
    learnt = [p.grad for branch in network.branches for p in branch.parameters()]
    assert all(g is not None and g.isfinite().all() for g in learnt)
    assert all(term.isfinite() for term in terms.values())


def test_what_a_frozen_teacher_teaches():
    """FPD: half of the error against 8 stacks' maps. ADLP: transport weighs what it does between branches."""
    rows = {row.method: row.run for row in rows_of() if row.run.seed == 0}
    fpd, (eight,) = rows["fpd"], (run for name, run in rows.items() if "8 stacks" in name)
    assert (fpd.distill.method, fpd.weights.heatmap, fpd.weights.kd_map) == ("naive", 0.5, 0.5)
    assert fpd.distill.teacher == eight.folder and eight.network.shared + eight.network.depths[0] == 8
    then = rows["okdhp, then adlp from its ensemble"]
    assert (then.distill.method, then.distill.teacher) == ("adlp", rows["okdhp"].folder)
    assert then.weights.kd_map == rows["okdhp, transport"].weights.online


def test_equal_compute_costs_what_the_branches_cost():
    rows = {row.method: row for row in rows_of()}
    times = rows["plain, equal compute"].run.steps / rows["plain"].run.steps
    assert 1.1 < times < 3
    assert rows["plain, equal compute"].run.network == rows["plain"].run.network


def test_locator_is_for_those_that_do_not_search():
    rows = rows_of(locator=Path("runs/finder"))
    assert {row.locator for row in rows if row.run.network.family == "keypoint"} == {None}
    assert {row.locator for row in rows if row.run.network.family == "heatmap"} == {Path("runs/finder")}


def test_the_table_says_what_was_not_run(tiny_data, tmp_path):
    command = Online(
        (tiny_data / "val",),
        tmp_path / "rows.json",
        data=tiny_data,
        objects=(1,),
        size=64,
        width=16,
        tile_px=0,
        steps=2,
        batch_size=2,
        backbones=("darknet-tiny-h",),
        runs=tmp_path / "runs",
        precision="32-true",
        workers=0,
    )
    student = dataclasses.replace(command.students()[0], accelerator="cpu")
    rows = online_rows(student, 1, 0.0, command.backbones, None, None, False)[:2]
    assert make_table(rows[:1], tmp_path / "one.json", list(command.test), 2, 0)
    write(rows, tmp_path / "both.json", list(command.test))
    (done,) = json.loads((tmp_path / "both.json").read_text())
    assert done["method"] == "plain" and done["given_boxes"] == 1.0
    assert done["network"] == "darknet-tiny-h, width 16"
    assert as_row(rows[1], tiny_data / "val", {}, "real")["network"].endswith("3 branches")
