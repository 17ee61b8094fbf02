# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: read back, repeated, resumed, refused."""

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pose_kd_ros.datasets.bop import BopDataset, load_models_info
from pose_kd_ros.datasets.meshes import load_ply_vertices
from pose_kd_ros.provenance import write_whole
from training.render.config import RenderConfig
from training.render.dataset import render_dataset, scenes_of
from training.render.maker import ImageMaker

SMALL = RenderConfig(
    width=160,
    height=120,
    focal_px=(120.0, 180.0),
    size_px=(20.0, 70.0),
    principal_jitter_px=5.0,
    images_per_scene=4,
    depth=True,
)
COUNT, SEED = 6, 3


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("cube")
    render_dataset(SMALL, root, "train", COUNT, SEED)
    return root


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_what_is_written_is_what_the_reader_reads(rendered):
    images = BopDataset(rendered / "train").images
    assert [(i.scene_id, i.image_id) for i in images] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert sum(len(i.instances) for i in images) >= 3
    with ImageMaker(SMALL, SEED) as maker:
        made_again = [maker(index) for index in range(COUNT)]
    for image, made in zip(images, made_again):
        np.testing.assert_array_equal(image.K, made.K)
        np.testing.assert_allclose(image.load_depth(), made.depth, atol=0.00006)
        assert np.abs(image.load_rgb().astype(int) - made.rgb).mean() < 8  # JPEG
        assert len(image.instances) == len(made.instances)
        for read, wrote in zip(image.instances, made.instances):
            np.testing.assert_allclose(read.T_camera_object, wrote.T_camera_object, atol=1e-12)
            assert (read.bbox_obj, read.bbox_visib) == (wrote.bbox_obj, wrote.bbox_visib)
            assert read.visib_fract == wrote.visible_share
            np.testing.assert_array_equal(read.load_mask(), wrote.mask_visible)


def test_models_are_in_millimetres_and_symmetries_map_the_cube_to_itself(rendered):
    info = load_models_info(rendered / "models" / "models_info.json")[1]
    corners = load_ply_vertices(rendered / "models" / "obj_000001.ply")
    assert info.diameter_m == pytest.approx(0.084 * 3**0.5, abs=1e-6)
    np.testing.assert_allclose(info.box_size, 0.084, atol=1e-9)
    assert info.symmetries_discrete.shape == (24, 4, 4) and len(corners) == 8
    for symmetry in info.symmetries_discrete:
        moved = corners @ symmetry[:3, :3].T + symmetry[:3, 3]
        assert np.abs(moved[:, None] - corners[None]).sum(2).min(1).max() < 1e-9


def test_the_same_seed_gives_the_same_bytes(rendered, tmp_path):
    render_dataset(SMALL, tmp_path, "train", COUNT, SEED)
    assert digests(tmp_path) == digests(rendered)


def test_another_seed_gives_another_image():
    with ImageMaker(SMALL, 1) as one, ImageMaker(SMALL, 2) as other:
        assert not np.array_equal(one(0).rgb, other(0).rgb)


def test_images_do_not_depend_on_processes_or_scenes(rendered, tmp_path):
    shards = dataclasses.replace(SMALL, images_per_scene=2)
    render_dataset(shards, tmp_path, "train", COUNT, SEED, workers=2)
    for index in range(COUNT):
        one = rendered / "train" / f"{index // 4:06d}" / "rgb" / f"{index % 4:06d}.jpg"
        other = tmp_path / "train" / f"{index // 2:06d}" / "rgb" / f"{index % 2:06d}.jpg"
        assert one.read_bytes() == other.read_bytes(), f"image {index}"


def test_an_interrupted_run_goes_on_with_the_missing_scenes(tmp_path, monkeypatch):
    render_dataset(SMALL, tmp_path, "train", 4, SEED)
    before = (tmp_path / "train/000000/scene_gt.json").stat().st_mtime_ns
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(SMALL, tmp_path, "train", COUNT, SEED)
    assert not (tmp_path / "train/000001").exists()
    monkeypatch.undo()
    render_dataset(SMALL, tmp_path, "train", COUNT, SEED)
    assert (tmp_path / "train/000000/scene_gt.json").stat().st_mtime_ns == before
    assert len(BopDataset(tmp_path / "train").images) == COUNT
    assert not list((tmp_path / "train").glob(".unfinished*"))


def stop_after(monkeypatch, images):
    from training.render import workers

    original, done = workers.write_image, []

    def interrupted(*args):
        if len(done) == images:
            raise KeyboardInterrupt
        done.append(1)
        return original(*args)

    monkeypatch.setattr(workers, "write_image", interrupted)


def test_a_shorter_last_scene_is_completed_by_a_longer_run(tmp_path):
    for count in (2, 4):
        render_dataset(SMALL, tmp_path, "train", count, SEED)
        assert len(BopDataset(tmp_path / "train").images) == count


def test_another_configuration_in_the_same_folder_is_refused(rendered):
    other = dataclasses.replace(SMALL, max_distractors=2)
    with pytest.raises(ValueError, match="max_distractors: wanted 2, found data rendered with 6"):
        render_dataset(other, rendered, "train", COUNT, SEED)
    with pytest.raises(ValueError, match="seed: wanted 4, found data rendered with 3"):
        render_dataset(SMALL, rendered, "train", COUNT, 4)


def write_box(path, *edges_mm):
    import trimesh

    trimesh.creation.box(edges_mm).export(path)


def test_an_edited_mesh_at_the_same_path_is_refused(tmp_path):
    write_box(tmp_path / "box.ply", 80, 60, 40)
    config, out = dataclasses.replace(SMALL, mesh=tmp_path / "box.ply"), tmp_path / "out"
    render_dataset(config, out, "train", 1, SEED)
    render_dataset(config, out, "train", 1, SEED)
    before = digests(out)
    write_box(tmp_path / "box.ply", 60, 80, 40)  # of the same diameter
    with pytest.raises(ValueError, match=r"render\.json: mesh_sha256: wanted .*, found data rendered with"):
        render_dataset(config, out, "train", 1, SEED)
    assert digests(out) == before


def test_another_split_must_show_the_same_object(tmp_path):
    render_dataset(SMALL, tmp_path, "train", 1, SEED)
    before = digests(tmp_path)
    for changes, message in (
        ({"cube_edge_mm": 50.0}, "object 1: diameter: wanted 86.60254, found 145.492268"),
        ({"object_id": 2}, "wanted object 2, found object 1"),
    ):
        with pytest.raises(ValueError, match=message):
            render_dataset(dataclasses.replace(SMALL, **changes), tmp_path, "val", 1, SEED)
    assert digests(tmp_path) == before
    render_dataset(SMALL, tmp_path, "val", 1, SEED)


def test_data_from_before_the_mesh_was_kept_goes_on(tmp_path):
    render_dataset(SMALL, tmp_path, "train", 1, SEED)
    path = tmp_path / "train/render.json"
    recipe = json.loads(path.read_text())
    del recipe["mesh_sha256"]
    path.write_text(json.dumps(recipe))
    render_dataset(SMALL, tmp_path, "train", 2, SEED)
    assert len(BopDataset(tmp_path / "train").images) == 2


def test_fewer_images_than_are_there_are_refused(rendered):
    before = digests(rendered)
    for count in (5, 3):
        with pytest.raises(ValueError, match=f"wanted {count} images in .* found 6 in 2"):
            render_dataset(SMALL, rendered, "train", count, SEED)
    assert digests(rendered) == before


@pytest.mark.parametrize("name", ["train/render.json", "models/models_info.json"])
def test_a_broken_file_is_named(tmp_path, name):
    render_dataset(SMALL, tmp_path, "train", 1, SEED)
    (tmp_path / name).write_text('{"half')
    with pytest.raises(ValueError, match=rf"{name}: wanted JSON"):
        render_dataset(SMALL, tmp_path, "train", 1, SEED)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "render.json"
    write_whole(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["render.json"]


def test_scenes_of_a_count_that_does_not_divide():
    assert scenes_of(5, 2) == [(0, range(0, 2)), (1, range(2, 4)), (2, range(4, 5))]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"focal_px": (700.0, 400.0)}, "focal_px: wanted 0 < low <= high"),
        ({"table_probability": 1.5}, "table_probability: wanted a share"),
        ({"width": 0}, "width: wanted a number > 0"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RenderConfig(**change)


def test_counts_of_instances_follow_the_configuration():
    with ImageMaker(dataclasses.replace(SMALL, empty_probability=1.0), 1) as maker:
        assert all(not maker(i).instances for i in range(3))
    with ImageMaker(dataclasses.replace(SMALL, empty_probability=0.0, second_probability=0.0), 1) as maker:
        assert all(len(maker(i).instances) == 1 for i in range(5))


def test_info_file_names_every_bop_field(rendered):
    entries = json.loads((rendered / "train/000000/scene_gt_info.json").read_text())
    wanted = {"bbox_obj", "bbox_visib", "px_count_all", "px_count_valid", "px_count_visib", "visib_fract"}
    assert all(set(entry) == wanted for image in entries.values() for entry in image)


def test_symmetries_of_a_mesh_file_come_from_a_models_info(tmp_path, shared_data):
    lmo = shared_data / "lmo" / "models"
    config = dataclasses.replace(SMALL, mesh=lmo / "obj_000010.ply", object_id=10, appearance="own")
    for source, count in ((None, 1), (lmo / "models_info.json", 2)):
        folder = tmp_path / str(count)
        render_dataset(dataclasses.replace(config, symmetries=source), folder, "train", 1, SEED)
        info = load_models_info(folder / "models/models_info.json")[10]
        assert len(info.symmetries_discrete) == count
    wanted = load_models_info(lmo / "models_info.json")[10]
    np.testing.assert_allclose(info.symmetries_discrete, wanted.symmetries_discrete, atol=1e-9)
    assert info.diameter_m == pytest.approx(wanted.diameter_m, rel=0.01)
    with pytest.raises(ValueError, match=r"models_info.json: wanted object 7"):
        render_dataset(
            dataclasses.replace(config, object_id=7, symmetries=lmo / "models_info.json"),
            tmp_path / "7",
            "train",
            1,
            SEED,
        )


@pytest.mark.parametrize("whole_group, number", [(True, signal.SIGINT), (False, signal.SIGKILL)])
def test_an_end_ends_all_processes_and_leaves_what_was_complete(tmp_path, whole_group, number):
    """Ctrl-C reaches the whole group; kill -9 one process."""
    code = (
        "import signal\nfrom pathlib import Path\nfrom training.render.config import RenderConfig\n"
        "from training.render.dataset import render_dataset\n"
        "if __name__ == '__main__':\n"
        # a shell that starts the tests in the background has them ignore it
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    config = RenderConfig(width=160, height=120, size_px=(20.0, 70.0), images_per_scene=8)\n"
        f"    render_dataset(config, Path({str(tmp_path / 'data')!r}), 'train', 100000, 1, workers=2)\n"
    )
    (tmp_path / "main.py").write_text(code)
    root = str(Path(__file__).resolve().parents[3])
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": root},
    ) as process:
        try:
            wait_until(lambda: (tmp_path / "data/train/000001").exists(), 240)
            (os.killpg if whole_group else os.kill)(process.pid, number)
            assert process.wait(timeout=30) != 0
            wait_until(lambda: not running(process.pid), 240)
        finally:
            for row in running(process.pid):
                os.kill(int(row[1]), signal.SIGKILL)
    assert len(BopDataset(tmp_path / "data/train").images) % 8 == 0


def test_a_driver_that_aborts_costs_one_scene_and_names_the_image(tmp_path):
    """By the command a user types; the signal is that of abort()."""
    command = f"{sys.executable} -m training render --out {tmp_path} --count 100000 --workers 2"
    command += " --images-per-scene 8 --width 160 --height 120 --size-px 20 70"
    root = str(Path(__file__).resolve().parents[3])

    def signalled(scene, number, find):
        options = {"cwd": root, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command.split(), **options) as process:
            wait_until(lambda: (tmp_path / f"train/{scene:06d}").exists(), 240)
            os.kill(find(process.pid), number)
            said = process.communicate(timeout=120)[1]
        wait_until(lambda: not running(process.pid), 240)
        return process.returncode, said

    code, said = signalled(1, signal.SIGABRT, worker_of)
    found = re.search(r"^error: images? (\d+).*: wanted a picture, found .* ended by SIGABRT", said, re.M)
    assert code == 2 and "Fatal Python error: Aborted" in said and found
    scenes = sorted(path.name for path in (tmp_path / "train").glob("0*"))
    assert int(found[1]) // 8 == len(scenes)
    code, said = signalled(len(scenes), signal.SIGINT, int)
    assert code == 1 and "the same command goes on" in said


def worker_of(pid):
    """A process that renders for `pid`."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(next(c for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()))


def running(group):
    """Processes of a group that are not just waiting to be collected."""
    found = subprocess.run(["ps", "-eo", "pgid,pid,stat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()[1:]]
    return [row for row in rows if row[0] == str(group) and not row[2].startswith("Z")]


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_a_wrong_folder_of_pictures_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: wanted pictures"):
        render_dataset(
            dataclasses.replace(SMALL, pictures=tmp_path / "nowhere"), tmp_path / "out", "train", 1, 1
        )
    assert not (tmp_path / "out").exists()
