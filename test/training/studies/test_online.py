"""The table of online distillation: which runs, in which order, and that they differ in the method alone."""

import dataclasses
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training.cli import Online  # noqa: E402
from training.fit.step import losses, prepare  # noqa: E402
from training.fit.train import make_dataset  # noqa: E402
from training.models.network import make_network  # noqa: E402
from training.studies.plan import cut, groups  # noqa: E402
from training.studies.plan_online import CONTROLS, FIRST, NEW, online_plan  # noqa: E402
from training.studies.table import make_table, write  # noqa: E402


def rows_of(**options):
    command = Online((Path("test"),), Path("out"), size=64, width=16, backbones=("darknet-tiny-h",))
    votes = command.config("student_lmo_none") if options.pop("with_votes", True) else None
    return online_plan(command.config("student_lmo_heatmap"), 3, 0.0, command.backbones, votes, **options)


def test_what_counts_most_comes_first():
    rows = rows_of()
    assert [row.method for row in rows[:5]] == [way.name for way in FIRST]
    assert rows[0].method == "plain" and rows[-1].method == "fpd" and "8 stacks" in rows[-2].method
    names = [row.run.name for row in rows]
    assert len(set(names)) == len(names)
    assert [row.run.seed for row in rows if row.method == "okdhp"] == [0, 1, 2]
    for row in rows:
        teacher = row.run.distill.teacher
        assert teacher is None or teacher.name in names[: row.place]  # it is there when it is wanted


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


@pytest.mark.parametrize("way", [*FIRST, *CONTROLS, *NEW], ids=lambda way: way.name)
def test_every_way_learns_something_finite(way, tiny_data):
    command = Online((Path("test"),), Path("out"), data=tiny_data, objects=(1,), size=64, width=16, tile_px=0)
    run = way.of(command.config("student_lmo_heatmap"), "darknet-tiny-h", 0)
    dataset, network = make_dataset(run, "train"), make_network(run.network)
    batch = dataset.collate([dataset[i] for i in range(2)])
    outputs = network(prepare(batch), with_features=True)
    terms = losses(outputs, batch, network, run.weights, online=run.online, watch=True)
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


@pytest.mark.parametrize("shards", [2, 5, 8])
def test_no_shard_waits_for_another(shards):
    rows, listed = rows_of(), []
    for index in range(shards):
        part = cut(rows, (index, shards), 5, False)
        folders = [row.run.folder for row in part]
        wanted = {row.run.distill.teacher for row in part} - {None}
        assert wanted <= set(folders)
        listed += [row.place for row in part if row.listed]
    assert sorted(listed) == list(range(len(rows)))


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
    student = dataclasses.replace(command.config("student_lmo_heatmap"), accelerator="cpu")
    rows = online_plan(student, 1, 0.0, command.backbones, None, None, False)[:2]
    assert make_table(rows[:1], tmp_path / "one.json", list(command.test), 2, 0)
    write(rows, tmp_path / "both.json", list(command.test))
    done, left = json.loads((tmp_path / "both.json").read_text())
    assert done["method"] == "plain" and done["given_boxes"] == 1.0 and done["status"] == "measured"
    assert left["method"] == "mean of branches" and left["status"] == "not run"
    assert done["network"] == "darknet-tiny-h, width 16" and left["network"].endswith("3 branches")
