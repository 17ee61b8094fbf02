# SPDX-License-Identifier: Apache-2.0
"""Both layouts, faults met while training, the cache and a choice of objects: what samples they give."""

import dataclasses
import json
import logging
import multiprocessing
import pickle
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.datasets.bop import BopDataset  # noqa: E402
from pose_kd_ros.datasets.faults import DatasetError, Faults  # noqa: E402
from training.config import RunConfig, load_config, to_json  # noqa: E402
from training.data.crops import CropConfig, CropDataset  # noqa: E402
from training.data.objects import load_objects  # noqa: E402
from training.data.splits import load_split  # noqa: E402
from training.data.targets import VoteTargets, collate  # noqa: E402
from training.data.tiles import read_tile  # noqa: E402
from training.export.manifest import object_specs  # noqa: E402
from training.fit.train import make_dataset  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

STRIDES = (8, 16, 32, 64)
SIZE = 128


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the tiny data set that a test may damage."""
    shutil.copytree(tiny_data, tmp_path / "tiny")
    return tmp_path / "tiny"


def config(data, **changes):
    return RunConfig("run", data=data, crops=CropConfig(SIZE), network=NetworkConfig(), **changes)


def samples(dataset, count=14):
    return [dataset[i] for i in range(count)]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("tile_px", [0, 96])
def test_shards_train_as_scene_folders_do(data, to_shards, tile_px):
    expected = samples(make_dataset(config(data, tile_px=tile_px), "train"))
    to_shards(data / "train", data / "shards")
    shutil.rmtree(data / "train")
    (data / "shards").rename(data / "train")
    assert_equal(samples(make_dataset(config(data, tile_px=tile_px), "train")), expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_shards(data, to_shards, start):
    to_shards(data / "train", data / "shards")
    dataset = make_dataset(config(data), "shards")
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[[0, 1], [2, 3]],
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context=multiprocessing.get_context(start),
    )
    for k, batch in enumerate(loader):
        assert torch.equal(batch["image"], collate([dataset[2 * k], dataset[2 * k + 1]])["image"])


# ------------------------------------------------------------------------------------------------- faults


def picture(data, number):
    return data / f"train/000000/rgb/{number:06d}.png"


def test_a_damaged_picture_is_refused_with_its_name(data):
    picture(data, 2).write_bytes(picture(data, 2).read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"000002.png: cannot be decoded"):
        samples(make_dataset(config(data), "train"), 6)
    with pytest.raises(DatasetError, match=r"000002.png: cannot be decoded"):
        make_dataset(config(data, tile_px=96), "train")


def test_a_damaged_picture_is_skipped_named_and_replaced_by_the_next(data, caplog):
    order = CropDataset(list(range(6)), [], VoteTargets([], STRIDES), CropConfig(SIZE), 0)._order(0)
    place = 2
    bad, following = order[place : place + 2]
    whole = make_dataset(config(data), "train")
    picture(data, bad).write_bytes(b"\x89PNG broken")
    dataset = make_dataset(config(data, faults="skip"), "train")
    for i in (i for i in range(6) if i != place):
        assert_equal([dataset[i]], [whole[i]])
    with caplog.at_level(logging.WARNING):
        found = dataset[place]
    tile = whole.images[following]
    expected = whole.sample(read_tile(tile, {1}), np.random.default_rng((0, 1, place)))
    assert_equal([found], [expected])
    assert dataset.faults.summary(6) == "skipped 1 of 6 images: 1 picture"
    assert_equal([make_dataset(config(data, faults="skip"), "train")[place]], [expected])  # a resumed run
    dataset[place], dataset[place]
    assert len([r for r in caplog.records if f"{bad:06d}.png" in r.getMessage()]) == 2  # once a data set


def train_command(data, runs, *more):
    """The command a user types; returns its exit code and all it printed."""
    options = (
        "--network.width 16 --network.depth 1 --network.groups 4 --steps 3 --batch-size 4 --workers 1 "
        "--tile-px 0 --precision 32-true --accelerator cpu --checkpoint-every 3 --log-every 3 --val-every 6 "
        "--name run"
    ).split()
    command = [sys.executable, "-m", "training", "train", "student-cube-small", *options]
    command += ["--data", str(data), "--runs", str(runs), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
    return done.returncode, done.stdout


def test_a_worker_names_what_it_skips_and_training_goes_on(data, tmp_path):
    picture(data, 3).write_bytes(b"\x89PNG broken")
    code, output = train_command(data, tmp_path / "refused")
    assert code != 0 and "000003.png: cannot be decoded" in output
    code, output = train_command(data, tmp_path / "skipped", "--faults", "skip")
    assert code == 0, output
    assert output.count("skipped (picture, fault 1)") == 1 and "000003.png: cannot be decoded" in output
    assert output.count("train: skipped 1 of 6 images: 1 picture") == 1
    assert (tmp_path / "skipped/run/last.ckpt").exists()


def test_what_is_skipped_while_watching_is_named_once_and_summed_too(data, tmp_path):
    (data / "val/000000/rgb/000001.png").write_bytes(b"\x89PNG broken")
    options = "--faults", "skip", "--val-every", "1"
    code, output = train_command(data, tmp_path / "runs", *options)
    assert code == 0, output
    assert output.count("skipped (picture, fault 1)") == 1 and "000001.png: cannot be decoded" in output
    assert output.count("val: skipped 1 of 2 images: 1 picture") == 1 and "train: skipped" not in output


def test_no_readable_image_is_an_end_and_not_a_hang(data):
    for number in range(6):
        picture(data, number).write_bytes(b"")
    with pytest.raises(DatasetError, match="wanted a readable image, found none in 6"):
        make_dataset(config(data, faults="skip"), "train")[0]


def damage_mask(data):
    (data / "train/000000/mask_visib/000001_000000.png").unlink()


def damage_info(data):
    path = data / "train/000000/scene_gt_info.json"
    content = json.loads(path.read_text())
    del content["1"][0]["bbox_obj"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage, kind, message",
    [
        (damage_mask, "mask", "object 1: wanted a mask_visib to choose cells from, found none"),
        (damage_info, "json", "scene_gt_info.json, image 1, instance 0: bbox_obj is missing"),
    ],
)
def test_what_training_needs_of_an_image_is_checked_before_the_first_step(
    data, capsys, damage, kind, message
):
    damage(data)
    with pytest.raises(DatasetError, match=message):
        make_dataset(config(data), "train")
    assert len(make_dataset(config(data, faults="skip"), "train").images) == 5
    assert f"train: skipped 1 of 6 images: 1 {kind}" in capsys.readouterr().out


def test_a_mask_of_another_size_than_its_picture_is_refused(data):
    path = data / "train/000000/mask_visib/000001_000000.png"
    cv2.imwrite(str(path), np.zeros((10, 20), np.uint8))
    with pytest.raises(DatasetError, match="wanted the picture's 256x192 px, found 20x10"):
        make_dataset(config(data, tile_px=96), "train")


# -------------------------------------------------------------------------------------------------- cache


def test_cached_tiles_are_the_tiles_in_memory(data, tmp_path):
    expected = samples(make_dataset(config(data, tile_px=96), "train"))
    for _ in range(2):  # made, then found
        dataset = make_dataset(config(data, tile_px=96, cache=tmp_path / "cache"), "train")
        assert_equal(samples(dataset), expected)
    [folder] = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    assert folder.name.startswith("tiny-train-96-")


def test_found_tiles_are_not_made_again_and_other_data_or_settings_are(data, tmp_path, monkeypatch):
    made = []
    original = BopDataset.__init__
    monkeypatch.setattr(BopDataset, "__init__", lambda *a: (made.append(1), original(*a))[1])

    def load(size=96, seed=0):
        faults = Faults()
        before = len(made)
        load_split(data / "train", load_objects(data), faults, size, seed, tmp_path / "cache")
        return len(made) - before

    assert [load(), load(), load(size=64), load(seed=1), load()] == [1, 0, 1, 1, 0]
    picture(data, 1).write_bytes(picture(data, 0).read_bytes())
    assert [load(), load()] == [1, 0]


def test_what_a_killed_process_left_is_made_anew(data, tmp_path):
    settings = config(data, tile_px=96, cache=tmp_path / "cache")
    expected = samples(make_dataset(settings, "train"))
    [folder] = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    half = folder.with_name(f"{folder.name}.part")
    folder.rename(half)
    (half / "pixels").write_bytes(b"half")
    assert_equal(samples(make_dataset(settings, "train")), expected)
    (folder / "labels").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"labels: wanted \d+ bytes, found 4; remove"):
        make_dataset(settings, "train")


def test_a_spawned_worker_is_not_sent_a_copy_of_the_cache(data, tmp_path):
    dataset = make_dataset(config(data, tile_px=96, cache=tmp_path / "cache"), "train")
    sent = pickle.dumps(dataset.images)
    assert len(sent) < 1000
    ours, theirs = (
        dataset.sample(t[1], np.random.default_rng(0)) for t in (dataset.images, pickle.loads(sent))
    )
    assert_equal([ours], [theirs])


def build(settings, queue):
    dataset = make_dataset(settings, "train")
    queue.put(dataset[3]["image"].numpy())


def test_processes_share_one_cache(data, tmp_path):
    """Two processes start at once: one makes the tiles, both train on them."""
    settings = config(data, tile_px=96, cache=tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=build, args=(settings, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    expected = make_dataset(settings, "train")[3]["image"].numpy()
    assert all(np.array_equal(f, expected) for f in found)
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1


def test_faults_of_cached_tiles_are_named_in_later_runs(data, tmp_path, capsys):
    picture(data, 2).write_bytes(b"\x89PNG broken")
    settings = config(data, tile_px=96, cache=tmp_path / "cache", faults="skip")
    for _ in range(2):
        make_dataset(settings, "train")
        assert "skipped 1 of 6 images: 1 picture" in capsys.readouterr().out
    with pytest.raises(DatasetError, match=r"000002.png"):
        make_dataset(dataclasses.replace(settings, faults="refuse"), "train")


def test_a_cache_wants_tiles(data, tmp_path):
    with pytest.raises(ValueError, match="wanted tile_px > 0"):
        config(data, cache=tmp_path)


# ------------------------------------------------------------------------------------------------ objects


@pytest.fixture
def two_objects(data):
    """Objects 1 and 4; images 0, 2 and 4 show object 1, the others 4."""
    path = data / "models/models_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"4": info["1"]}))
    path = data / "train/000000/scene_gt.json"
    truth = json.loads(path.read_text())
    for key, entries in truth.items():
        entries[0]["obj_id"] = 4 if int(key) % 2 else 1
    path.write_text(json.dumps(truth))
    return data


def test_a_run_may_choose_objects(two_objects):
    with pytest.raises(ValueError, match=r"network\.classes: wanted 2, .* found 1"):
        make_dataset(config(two_objects), "train")
    for number in range(6):  # what the others need is not asked for
        if number % 2 == 0:
            (two_objects / f"train/000000/mask_visib/{number:06d}_000000.png").unlink()
    dataset = make_dataset(config(two_objects, objects=(4,)), "train")
    shown = [len(sample["class_index"]) for sample in samples(dataset, 6)]
    assert sorted(shown) == [0, 0, 0, 1, 1, 1]
    for objects, expected in (((4,), [4]), ((), [1, 4])):
        run = RunConfig("x", data=two_objects, objects=objects)
        assert [spec.id for spec in object_specs(run, {})] == expected


def test_an_object_that_is_not_there_is_refused_by_number(two_objects):
    with pytest.raises(ValueError, match=r"models_info.json: wanted objects \[2, 9\], found \[1, 4\]"):
        make_dataset(config(two_objects, objects=(9, 4, 2)), "train")


def test_the_choice_survives_the_disk(data, tmp_path):
    settings = config(data, tile_px=96, objects=(1, 4), cache=tmp_path / "c", faults="skip")
    (tmp_path / "config.json").write_text(to_json(settings))
    assert load_config(tmp_path) == settings
