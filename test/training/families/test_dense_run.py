# SPDX-License-Identifier: Apache-2.0
"""The dense family from a data set to a bundle: trained, distilled, exported, run as the robot runs it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trimesh")
cv2 = pytest.importorskip("cv2")

from pose_kd_ros.bundle.manifest import BundleError  # noqa: E402
from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from pose_kd_ros.core.pose import from_rotation_vector, make_pose  # noqa: E402
from pose_kd_ros.datasets.bop import BopDataset  # noqa: E402
from pose_kd_ros.datasets.faults import DatasetError  # noqa: E402
from pose_kd_ros.evaluation.looks import run, true_regions  # noqa: E402
from pose_kd_ros.pipeline.families import make_estimator  # noqa: E402
from pose_kd_ros.pipeline.network import load_network  # noqa: E402
from test.nodes.disc_bundle import write_disc_bundle  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.config import RunConfig, load_config, to_json  # noqa: E402
from training.data import surface  # noqa: E402
from training.data.crops import CropConfig  # noqa: E402
from training.data.surface import CodeReader  # noqa: E402
from training.data.tiles import read_tile  # noqa: E402
from training.export.network import trained_network  # noqa: E402
from training.export.run import export_run, export_with_locator  # noqa: E402
from training.fit import checkpoint  # noqa: E402
from training.fit.train import Stopped, make_dataset, train  # noqa: E402
from training.losses.distill import DistillConfig  # noqa: E402
from training.measure.evaluate import evaluate_command  # noqa: E402
from training.models.dense import DenseConfig  # noqa: E402
from training.models.keypoint import NetworkConfig  # noqa: E402

TINY = DenseConfig("darknet-tiny-h", width=16)


def settings(data, runs, **changes):
    return RunConfig(
        **{
            "name": "dense",
            "data": data,
            "runs": runs,
            "network": TINY,
            "crops": CropConfig(size=64, search_share=0.0),
            "steps": 4,
            "batch_size": 2,
            "workers": 0,
            "precision": "32-true",
            "accelerator": "cpu",
            "checkpoint_every": 2,
            "log_every": 2,
            "val_every": 4,
        }
        | changes
    )


@pytest.fixture(scope="session")
def trained(dense_data, tmp_path_factory):
    config = settings(dense_data, tmp_path_factory.mktemp("runs"))
    train(config)
    return config


def test_targets_of_crops_name_the_points_that_the_pixels_see(dense_data, tmp_path):
    """Through tile, crop and output grid: each pixel's code projects back to where the pixel is."""
    config = settings(dense_data, tmp_path, crops=CropConfig(size=128, search_share=0.0))
    dataset = make_dataset(config, "train")
    from training.data.surface import load_surface

    points = load_surface(dense_data / "models", 1).points
    tile = dataset.images[0].load_rgb()  # whole images are read anew
    assert tile.shape == (192, 256, 3)
    sample = dataset[0]
    inside = sample["instance_map"].numpy() == 0
    assert inside.sum() > 50 and sample["code_maps"].shape == (1, 64, 64)
    assert sample["image"].shape == (3, 128, 128)
    seen = points[sample["code_maps"][0].numpy()[inside]]
    # whatever the crop: a similarity in the image takes the seen points' projections to the pixels
    image = next(i for i in dataset.images if i.image_id == _number_of(dataset, 0))
    pose = image.instances[0].T_camera_object
    camera = (seen @ pose[:3, :3].T + pose[:3, 3]) @ image.K.T
    projected = camera[:, :2] / camera[:, 2:]
    v, u = np.nonzero(inside)
    for axis, pixel in ((0, u), (1, v)):
        slope, start = np.polyfit(projected[:, axis], pixel, 1)
        assert np.abs(slope * projected[:, axis] + start - pixel).max() < 1.5


def _number_of(dataset, index):
    return dataset.images[dataset._order(0)[index]].image_id


def test_a_run_learns_and_remembers_its_bits_errors(trained):
    state = checkpoint.load(trained.folder / "last.ckpt")["network"]
    assert load_config(trained.folder) == trained and state["bit_error"].shape == (16,)
    assert not torch.equal(state["bit_error"], torch.full((16,), 0.5))


def test_a_stopped_run_ends_where_a_whole_one_does(trained, tmp_path, monkeypatch):
    half = dataclasses.replace(trained, runs=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("training.fit.train.agreed", lambda *_: True)
        train(half)
    assert checkpoint.load(half.folder / "last.ckpt")["step"] == 1
    train(half)
    ours, theirs = (checkpoint.load(r.folder / "last.ckpt")["network"] for r in (half, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def bundle(trained, tmp_path_factory):
    """The run's bundle; the run is measured by its export and may teach."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    export_run(trained.folder, folder, {1: "cube"}, 64, 4)
    return folder


@pytest.mark.parametrize("method", ["naive", "adlp"])
def test_a_dense_student_learns_from_a_dense_teacher(trained, bundle, tmp_path, method):
    distill = DistillConfig(method, teacher=trained.folder, floor=0.0)
    student = dataclasses.replace(trained, name=method, runs=tmp_path, distill=distill)
    train(student)
    ours, plain = (checkpoint.load(r.folder / "last.ckpt")["network"] for r in (student, trained))
    assert any(not torch.equal(ours[name], plain[name]) for name in ours)


def test_what_a_dense_teacher_cannot_teach_is_refused(trained, bundle, tmp_path):
    fkd = DistillConfig("fkd", teacher=trained.folder, floor=0.0)
    with pytest.raises(ValueError, match="wanted naive or adlp for the dense family"):
        train(dataclasses.replace(trained, name="fkd", runs=tmp_path, distill=fkd))
    adlp = dataclasses.replace(fkd, method="adlp")
    with pytest.raises(ValueError, match="wanted the family keypoint, as the student, found dense"):
        train(dataclasses.replace(trained, name="k", runs=tmp_path, network=NetworkConfig(), distill=adlp))


def test_other_codes_than_were_learnt_are_refused(trained, bundle, tmp_path):
    """At resuming, at export, and by a student whose data set has codes of its own."""
    shutil.copytree(trained.data, tmp_path / "data")
    shutil.copytree(trained.folder, tmp_path / "dense")
    kept = tmp_path / "data" / "models" / "object_000001.npz"
    with np.load(kept) as stored:
        np.savez(kept, points=stored["points"][::-1], mesh=stored["mesh"])
    moved = dataclasses.replace(trained, data=tmp_path / "data", runs=tmp_path)
    learnt = "wanted the surface codes that it has learnt"
    with pytest.raises(ValueError, match=rf"last\.ckpt: {learnt}.*object_000001\.npz"):
        trained_network(moved)
    distill = DistillConfig("adlp", teacher=trained.folder, floor=0.0)
    with pytest.raises(ValueError, match=learnt):
        train(dataclasses.replace(moved, name="student", distill=distill))


def test_a_tied_instance_outside_the_crop_takes_no_part(dense_data, tmp_path):
    """Two symmetric instances, one beside the crop, with more representatives than the one in it."""
    dataset = make_dataset(settings(dense_data, tmp_path), "train")
    tile = read_tile(dataset.images[0], {1}, with_depth=True)
    half = dataclasses.replace(dataset.models[0], symmetries=np.stack([np.eye(4), np.diag([-1.0, -1, 1, 1])]))
    dataset.models[0] = half
    dataset.targets.reader.models[1] = half
    (one,) = tile.instances
    halfway = one.T_camera_object @ make_pose(from_rotation_vector((0, 0, np.pi / 2)), np.zeros(3))
    hidden = dataclasses.replace(one, label=2, T_camera_object=halfway)
    for instances in ((one, hidden), (hidden, one)):
        sample = dataset.sample(dataclasses.replace(tile, instances=instances), np.random.default_rng(0))
        assert len(sample["code_maps"]) == len(sample["map_instance"]) and len(sample["class_index"]) <= 1


def test_a_damaged_depth_is_skipped_and_counted(dense_data, tmp_path):
    shutil.copytree(dense_data, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "000000" / "depth" / "000003.png"
    cv2.imwrite(str(broken), np.full((192, 256), 30000, np.uint16))
    config = settings(tmp_path / "data", tmp_path, faults="skip", val_split="", steps=6)
    dataset = make_dataset(config, "train")
    samples = [dataset[i] for i in range(6)]
    assert len(samples) == 6 and list(dataset.faults.kinds.values()) == ["depth"]
    with pytest.raises(DatasetError, match=r"000003\.png: object 1: .*--depth"):
        [make_dataset(dataclasses.replace(config, faults="refuse"), "train")[i] for i in range(6)]


def test_tiles_with_codes_are_cached_and_found(dense_data, tmp_path, monkeypatch):
    """As in memory; other codes, or none, are other tiles; a folder that was cut short is refused."""
    config = settings(dense_data, tmp_path, tile_px=96)
    expected = [make_dataset(config, "train")[i] for i in range(8)]
    cached = dataclasses.replace(config, cache=tmp_path / "cache")
    for again in (False, True):
        with monkeypatch.context() as patch:
            if again:
                patch.setattr(CodeReader, "codes", None)
            dataset = make_dataset(cached, "train")
        for sample, wanted in zip((dataset[i] for i in range(8)), expected):
            assert all(torch.equal(sample[name], wanted[name]) for name in wanted)
    make_dataset(dataclasses.replace(cached, network=NetworkConfig(), crops=CropConfig(64)), "train")
    monkeypatch.setattr(surface, "OFF", 0.04)
    make_dataset(cached, "train")
    folders = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    assert len(folders) == 3
    for folder in folders:
        (folder / "codes").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"codes: wanted \d+ bytes, found 4; remove"):
        make_dataset(cached, "train")


def test_depth_is_asked_for(tiny_data, tmp_path, dense_data):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "train").symlink_to(tiny_data / "train")
    (bare / "models").symlink_to(dense_data / "models")
    with pytest.raises(ValueError, match="depth"):
        train(settings(bare, tmp_path, val_split=""))


def test_the_bundle_runs_in_given_boxes_and_says_that_they_were_given(trained, bundle, capsys):
    opened = open_bundle(bundle)
    assert opened.manifest.family == "dense" and opened.manifest.training.metrics["given_boxes"] == 1
    assert opened.manifest.training.metrics["images"] > 0  # half of what there is
    assert np.abs(opened.surface(1).points).max() == pytest.approx(0.042, abs=1e-6)
    estimator = make_estimator(opened, load_network(opened), pose_score=0.0)
    images = BopDataset(trained.data / "val").images
    assert len(list(run(estimator, images, given_boxes=True))) == len(images)
    evaluate_command(bundle, trained.data / "val", 2, None, given_boxes=True)
    assert "given_boxes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="export it with --locator, or give --given-boxes"):
        evaluate_command(bundle, trained.data / "val", 2, None)


@pytest.fixture(scope="session")
def finder(tiny_data, tmp_path_factory):
    """A run of the keypoint family."""
    network = NetworkConfig("darknet-tiny-h", classes=1, width=16, depth=1, groups=4)
    changes = {"network": network, "crops": CropConfig(size=64), "steps": 1, "name": "finder"}
    config = settings(tiny_data, tmp_path_factory.mktemp("finder"), **changes)
    train(config)
    return config


def test_a_bundle_is_exported_with_the_one_that_finds_its_objects(trained, tmp_path, capsys):
    shutil.copytree(trained.folder, tmp_path / "run")  # which is told the figures
    place, out = write_disc_bundle(tmp_path / "discs"), tmp_path / "both"
    main(["export", str(tmp_path / "run"), "--out", str(out), "--val-images", "4", "--locator", str(place)])
    opened = open_bundle(out)
    assert opened.manifest.family == "dense" and opened.locator.manifest == open_bundle(place).manifest
    assert opened.manifest.training.metrics["images"] > 0
    assert "given_boxes" not in opened.manifest.training.metrics
    main(["evaluate", str(out), "--data", str(trained.data / "val"), "--limit", "2"])
    assert "given_boxes" not in capsys.readouterr().out


def test_a_run_as_locator_is_exported_into_the_bundle(trained, finder, tmp_path):
    export_with_locator(trained.folder, tmp_path / "both", {1: "cube"}, 128, 0, finder.folder)
    opened = open_bundle(tmp_path / "both")
    assert opened.locator.manifest.name == opened.locator.manifest.training.recipe == "finder"
    assert opened.locator.manifest.input.search_size == 128 and opened.manifest.input.search_size == 64


def test_what_cannot_find_the_objects_is_refused_before_the_work(tiny_data, tmp_path):
    """Before the runs' checkpoints are looked for: there are none."""
    (tmp_path / "other" / "models").mkdir(parents=True)
    info = json.loads((tiny_data / "models" / "models_info.json").read_text())
    (tmp_path / "other" / "models" / "models_info.json").write_text(json.dumps({"7": info["1"]}))

    def run_of(name, data, network):
        config = settings(data, tmp_path / "runs", name=name, network=network)
        config.folder.mkdir(parents=True)
        (config.folder / "config.json").write_text(to_json(config))
        return config.folder

    dense, keypoint = run_of("dense", tiny_data, TINY), run_of("keypoint", tiny_data, NetworkConfig())
    other_dense = run_of("other_dense", tmp_path / "other", TINY)
    other_keypoint = run_of("other_keypoint", tmp_path / "other", NetworkConfig())
    discs, dense_discs = (write_disc_bundle(tmp_path / family, family) for family in ("keypoint", "dense"))
    for folder, locator, said in (
        (keypoint, discs, "wanted none but in a dense, .* found one of the keypoint"),
        (dense, dense_discs, "wanted one of the keypoint family, found 'dense'"),
        (dense, other_dense, "wanted one of the keypoint family, found 'dense'"),
        (dense, other_keypoint, r"finds any of the objects \[1\], found \[7\]"),
        (other_dense, discs, r"finds any of the objects \[7\], found \[1, 2\]"),
        (dense, tmp_path / "nothing", r"config\.json: wanted a run's settings, found no such file"),
    ):
        with pytest.raises(ValueError, match=said):
            export_with_locator(folder, tmp_path / "out", {}, 64, 0, locator)
        assert not (tmp_path / "out").exists()


def test_a_dense_bundle_without_its_surface_or_with_another_is_refused(bundle, tmp_path):
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied)
    surface = copied / "object_000001.npz"
    np.savez(surface, points=np.zeros((3, 3)))
    with pytest.raises(BundleError, match=r"object_000001\.npz: damaged or exchanged"):
        open_bundle(copied)
    surface.unlink()
    with pytest.raises(BundleError, match=r"object_000001\.npz: missing"):
        open_bundle(copied)


def test_true_boxes_are_those_of_instances_that_count(trained):
    from pose_kd_ros.core.camera import Camera
    from training.data.objects import load_objects

    image = BopDataset(trained.data / "val").images[0]
    camera = Camera(image.K, np.zeros(0), "plumb_bob", 256, 192)
    objects = {m.id: m for m in load_objects(trained.data)}
    (region,) = true_regions(image, camera, objects)
    x, y, w, h = image.instances[0].bbox_obj
    assert np.allclose(region.box, (x, y, x + w, y + h), atol=2) and region.object_id == 1
    hidden = dataclasses.replace(
        image, instances=(dataclasses.replace(image.instances[0], visib_fract=0.05),)
    )
    assert true_regions(hidden, camera, objects) == []
