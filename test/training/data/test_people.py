# SPDX-License-Identifier: Apache-2.0
"""People of COCO and MPII: what the readers make of the files, the crops, and the figures."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pose_kd_ros.bundle.manifest import InputSpec, PeopleSpec  # noqa: E402
from pose_kd_ros.datasets.faults import DatasetError, Faults  # noqa: E402
from pose_kd_ros.pipeline.people import PeopleEstimator  # noqa: E402
from pose_kd_ros.pipeline.preprocess import crop_about  # noqa: E402
from training.data.coco import read_coco  # noqa: E402
from training.data.mpii import read_mpii  # noqa: E402
from training.data.people import COCO, MARGIN, MPII, People, Person  # noqa: E402
from training.data.people_crops import PeopleCropConfig, PeopleDataset, input_size, placed  # noqa: E402
from training.data.people_source import PeopleConfig  # noqa: E402
from training.measure.people import evaluate_people, predictions, region_of  # noqa: E402
from training.measure.people_metrics import average_precision, pckh, person_score, similarity, suppressed  # noqa: E402

STILL = {"flip": 0.0, "scale": 0.0, "rotated": 0.0}


@pytest.fixture
def human(shared_data):
    root = shared_data / "human"
    if not root.is_dir():
        pytest.skip(f"shared data: no folder {root}")
    return root


@pytest.fixture
def coco(human):
    return read_coco(human / "coco" / "test_coco.json", human / "img")


@pytest.fixture
def mpii(human):
    return read_mpii(human / "mpii" / "test_mpii.json", human / "img")


@pytest.fixture
def files(tmp_path):
    """A folder with a picture; functions that write one person of either format, fields changed."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 80, 3), np.uint8))
    joints = [[10.0 + k, 20.0 + k] for k in range(16)]
    joints[0] = [-1, -1]
    entry = {"image": "a.png", "center": [41, 31], "scale": 0.2, "joints": joints, "joints_vis": [1] * 16}
    person = {"id": 7, "image_id": 3, "category_id": 1, "iscrowd": 0, "num_keypoints": 2, "area": 100.0}
    person |= {"bbox": [10, 20, 30, 10], "keypoints": [11, 21, 2, 12, 22, 1] + [0] * 45}

    def write_mpii(**changes):
        (tmp_path / "mpii.json").write_text(json.dumps([entry | changes]))
        return tmp_path / "mpii.json", tmp_path

    def write_coco(*others, **changes):
        content = {"images": [{"id": 3, "file_name": "a.png"}], "annotations": [person | changes, *others]}
        content["categories"] = [{"id": 1, "name": "person", "keypoints": COCO.keypoints}]
        (tmp_path / "coco.json").write_text(json.dumps(content))
        return tmp_path / "coco.json", tmp_path

    return write_mpii, write_coco


def test_mpii_counts_from_one_and_moves_the_centre_to_the_feet(files):
    (person,) = read_mpii(*files[0]()).persons
    np.testing.assert_allclose(person.center, (40, 33))  # 41 - 1, 31 + 15 * 0.2 - 1
    np.testing.assert_allclose(person.extent, (50, 50))  # 0.2 * 200 * 1.25
    np.testing.assert_array_equal(person.points[1], (10, 20))
    assert person.visible[0] == 0 and person.visible[1:].all()
    assert person.head_size == pytest.approx(2**0.5)


def test_coco_weighs_hidden_and_seen_joints_the_same(files):
    (person,) = read_coco(*files[1]()).persons
    np.testing.assert_array_equal(person.visible, [1, 1] + [0] * 15)
    np.testing.assert_allclose((*person.center, *person.extent), (24.5, 24.5, 37.5, 12.5))
    crop = person.crop(192, 256)
    np.testing.assert_allclose(crop.to_full((95.5, 127.5)), person.center)
    np.testing.assert_allclose((crop.width / crop.scale, crop.height / crop.scale), (37.5, 50))


def test_crowds_and_people_without_keypoints_are_left_out(files):
    path, _ = files[1]()
    first = json.loads(path.read_text())["annotations"][0]
    crowd, bare = first | {"id": 8, "iscrowd": 1}, first | {"id": 9, "keypoints": [0] * 51}
    assert [p.id for p in read_coco(*files[1](crowd, bare)).persons] == [7]


def test_real_files_are_read_as_they_are(coco, mpii, human):
    assert len(coco.persons) == 12 and len(coco.images) == 4 and len(mpii.persons) == 5
    assert {v for p in coco.persons + mpii.persons for v in p.visible.tolist()} == {0.0, 1.0}
    entry = json.loads(coco.annotations.read_text())["categories"][0]
    assert {(a - 1, b - 1) for a, b in entry["skeleton"]} == set(COCO.links)
    detected = read_coco(
        coco.annotations, human / "img", human / "coco" / "test_coco_det_AP_H_56.json"
    ).persons
    assert len(detected) == 118 and 0.99 < max(p.score for p in detected) < 1
    assert not any(p.visible.any() for p in detected)


@pytest.mark.parametrize("skeleton", [COCO, MPII])
def test_what_a_mirror_swaps_differs_in_left_and_right_alone(skeleton):
    order, names = skeleton.mirrored(), skeleton.keypoints
    for name, other in zip(names, np.array(names)[order]):
        assert name.replace("left", "?").replace("right", "left").replace("?", "right") == other


@pytest.mark.parametrize(
    "which, changes, message",
    [
        (0, {"joints": [[1, 2]]}, "mpii.json, entry 0: joints: wanted 32 finite numbers, found"),
        (0, {"scale": -0.1}, "mpii.json, entry 0: scale: wanted a positive"),
        (0, {"image": "b.png"}, "mpii.json, entry 0: image: wanted the picture"),
        (1, {"keypoints": [1, 2, 3] * 17}, "coco.json, annotation 0: keypoints: wanted 0, 1 or 2"),
        (1, {"bbox": [1, 2, 0, 4]}, "coco.json, annotation 0: bbox: wanted a positive"),
        (1, {"area": None}, "coco.json, annotation 0: area"),
        (1, {"image_id": 4}, "coco.json, annotation 0: image_id"),
    ],
)
def test_faults_are_named_or_counted(files, which, changes, message):
    read, written = (read_mpii, read_coco)[which], files[which](**changes)
    with pytest.raises(DatasetError, match=message):
        read(*written)
    faults = Faults("skip")
    assert not read(*written, faults=faults).persons
    assert faults.images == 1


def test_an_image_with_a_damaged_person_is_not_measured(files):
    path, _ = files[1]()
    damaged = json.loads(path.read_text())["annotations"][0] | {"keypoints": [1]}
    people = read_coco(*files[1](damaged), faults=Faults("skip"))
    assert people.images == () and people.persons == ()


def test_heads_are_those_of_the_person_at_that_place(files, tmp_path):
    io = pytest.importorskip("scipy.io")

    def structs(*entries):
        found = np.zeros((1, len(entries)), [(name, object) for name in entries[0]])
        for i, entry in enumerate(entries):
            found[0, i] = tuple(entry.values())
        return found

    def rect(x1, y1, x2, y2, objpos):
        return {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "objpos": objpos}

    here = rect(np.uint8(200), np.uint8(10), np.uint16(260), np.uint16(90), {"x": 41.0, "y": 31.0})
    there = rect(1, 1, 4, 5, {"x": 400.0, "y": 31.0})
    nobody = rect([], [], [], [], [])
    annolist = structs(
        {"image": {"name": "a.png"}, "annorect": structs(nobody, there, here)},
        {"image": {"name": "b.png"}, "annorect": structs(there)},
        {"image": {"name": "c.png"}, "annorect": []},
    )
    io.savemat(tmp_path / "heads.mat", {"RELEASE": {"annolist": annolist}})
    people = read_mpii(*files[0](), tmp_path / "heads.mat")
    assert people.persons[0].head_size == pytest.approx(60)  # 0.6 * hypot(60, 80)
    assert people.head_size == "0.6 x head box diagonal"
    with pytest.raises(DatasetError, match="entry 0: center: wanted a head box"):
        read_mpii(*files[0](center=[99, 31]), tmp_path / "heads.mat")
    (tmp_path / "heads.mat").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"heads\.mat: wanted RELEASE"):
        read_mpii(*files[0](), tmp_path / "heads.mat")


def test_heads_are_for_measuring_alone(files, tmp_path):
    """A person to learn from without a head box stops nothing."""
    path, images = files[0]()
    config = PeopleConfig("mpii", path, images, path, heads=tmp_path / "none.mat")
    assert len(config.load(False).persons) == 1
    with pytest.raises(DatasetError, match=r"none\.mat: wanted a file, found none"):
        config.load(True)


@pytest.fixture
def dotted(tmp_path):
    """A person whose joints are white dots."""
    random = np.random.default_rng(0)
    points = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * 45.0 + (110, 80)
    points += random.integers(-8, 8, points.shape)
    picture = np.zeros((320, 400, 3), np.uint8)
    for u, v in points.astype(int):
        cv2.circle(picture, (u, v), 3, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "dots.png"), picture)
    visible = np.ones(16, np.float32)
    visible[3] = 0
    person = Person(tmp_path / "dots.png", points.mean(0), np.full(2, 200.0), points, visible, 0, 0, 10.0)
    return People(MPII, (person,), Path("dots.json"), head_size="a dot's")


def test_joints_move_with_the_pixels(dotted):
    dataset = PeopleDataset(dotted, PeopleCropConfig(), seed=1)
    angles, lost = set(), 0
    for sample in (dataset[i] for i in range(20)):
        image, points = sample["image"][0].numpy(), sample["points"].numpy()
        assert image.shape == (256, 256) and set(sample["visible"].tolist()) <= {0.0, 1.0}
        for u, v in points[sample["visible"].numpy() > 0]:
            left, top = round(float(u)) - 7, round(float(v)) - 7
            if min(left, top) < 0 or max(left, top) > 256 - 15:
                continue
            rows, columns = np.nonzero(image[top : top + 15, left : left + 15] > 127)
            assert len(rows) > 5
            np.testing.assert_allclose((columns.mean() + left, rows.mean() + top), (u, v), atol=0.6)
        lost += 15 - int(sample["visible"].sum())
        angles.add(round(float(np.arctan2(*(points[0] - points[15]))), 2))
    assert len(angles) > 10 and lost > 0


def test_crops_turn_and_zoom_about_the_person(dotted):
    (person,) = dotted.persons
    ahead = person.center + (10, 0)
    for mirrored in (False, True):
        matrix = placed(person, 192, 256, 1.2, np.pi / 2, mirrored)[:2]
        np.testing.assert_allclose(matrix @ [*person.center, 1], (95.5, 127.5))
        np.testing.assert_allclose(matrix @ [*ahead, 1], (95.5, 127.5 + 10 * 1.2 * 192 / 200))


def test_a_mirrored_crop_swaps_joints(dotted):
    plain, mirrored = (
        PeopleDataset(dotted, PeopleCropConfig(**STILL | {"flip": flip}), seed=1)[0] for flip in (0.0, 1.0)
    )
    order = MPII.mirrored()
    expected = plain["points"][order]
    expected[:, 0] = 255 - expected[:, 0]
    torch.testing.assert_close(mirrored["points"], expected)
    torch.testing.assert_close(mirrored["visible"], plain["visible"][order])
    assert plain["visible"][3] == 0 == mirrored["visible"][2]
    difference = mirrored["image"].flip(2).int() - plain["image"].int()
    assert difference.abs().float().mean() < 1  # bilinear weights have 5 bits


def test_samples_are_seeded_and_damaged_pictures_are_passed_over(dotted, tmp_path):
    first, again = (PeopleDataset(dotted, PeopleCropConfig(aspect=0.75), seed=3) for _ in range(2))
    batch = first.collate([first[5], first[6]])
    assert batch["image"].shape == (2, 3, 256, 192) and batch["class_index"].dtype == torch.int64
    assert all(torch.equal(first[5][name], again[5][name]) for name in batch)
    assert not torch.equal(first[5]["points"], first[6]["points"])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = dataclasses.replace(dotted.persons[0], image=tmp_path / "bad.png")
    people = People(MPII, (bad, *dotted.persons), Path("dots.json"))
    faults = Faults("skip")
    assert all(PeopleDataset(people, PeopleCropConfig(), 0, faults)[i]["image"].any() for i in range(4))
    assert faults.images == 1


def test_input_sizes_are_whole_heatmaps():
    assert input_size(256, 0.75) == (192, 256)
    with pytest.raises(ValueError, match=r"multiples of 4 px, found 179\.2x256"):
        PeopleCropConfig(aspect=0.7)


def estimator_of(people, network, aspect=1.0, flip_test=True):
    """The robot's estimator with a network that is a function."""
    spec = InputSpec(256, 256, 4, MARGIN, "rgb", [0.5] * 3, [0.5] * 3, aspect)
    names = PeopleSpec(list(people.skeleton.keypoints), [], [list(pair) for pair in people.skeleton.flip])
    network_spec, decode = SimpleNamespace(strides=[4]), SimpleNamespace(cell_score=0.2)
    manifest = SimpleNamespace(input=spec, people=names, network=network_spec, decode=decode)
    return PeopleEstimator(SimpleNamespace(manifest=manifest), network, flip_test=flip_test)


def perfect(people, aspect=1.0, flip_test=True):
    """An estimator whose network answers what is right for one person after the other."""
    width, height = input_size(256, aspect)
    order, calls = people.skeleton.mirrored(), itertools.count()
    v, u = np.mgrid[: height // 4, : width // 4]

    def network(image):
        assert image.shape == (1, 3, height, width) and image.dtype == np.float32
        number, is_mirrored = divmod(next(calls), 1 + flip_test)
        person = people.persons[number]
        points, visible = person.crop(width, height).to_input(person.points), person.visible
        if is_mirrored:
            points, visible = (points * (-1, 1) + (width - 1, 0))[order], visible[order]
        x, y = ((points + 0.5) / 4 - 0.5).T[:, :, None, None]
        return {"heatmaps": (np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8) * visible[:, None, None])[None, None]}

    return estimator_of(people, network, aspect, flip_test)


def test_perfect_maps_give_perfect_figures(coco, mpii):
    figures = evaluate_people(perfect(mpii), mpii)
    assert figures["mean"] == figures["mean@0.1"] == 100 and figures["people"] == 5
    assert figures["head_size"] == "joints 8-9" and "pelvis" not in figures
    figures = evaluate_people(perfect(coco, 0.75), coco, suppress=0.9)
    assert figures["AP"] == pytest.approx(1) and figures["AR"] == 1 and figures["people"] == 12


@pytest.mark.parametrize("flip_test", [True, False])
def test_perfect_maps_are_decoded_to_the_truth(coco, flip_test):
    for each in predictions(perfect(coco, 0.75, flip_test), coco, Faults()):
        visible = each.person.visible > 0
        crop = each.person.crop(192, 256)
        np.testing.assert_allclose(
            each.points[visible] * crop.scale, each.person.points[visible] * crop.scale, atol=0.02
        )
        assert np.isnan(each.points[~visible]).all()
        assert each.area == pytest.approx(192 * 256 / crop.scale**2)


def test_the_estimator_sees_the_crop_that_training_showed(coco):
    for person in coco.persons:
        seen = crop_about(region_of(person).box, perfect(coco, 0.75).spec)
        trained = person.crop(192, 256)
        np.testing.assert_allclose(
            (seen.left, seen.top, seen.scale), (trained.left, trained.top, trained.scale), rtol=1e-12
        )


def test_a_map_without_a_peak_is_a_missed_joint(dotted):
    nothing = estimator_of(dotted, lambda image: {"heatmaps": np.zeros((1, 1, 16, 64, 64))})
    assert evaluate_people(nothing, dotted)["mean"] == 0


def test_pckh_counts_joints_not_means():
    truth, visible = np.zeros((2, 16, 2)), np.zeros((2, 16))
    visible[:, 0], visible[0, 9], visible[:, 6] = 1, 1, 1
    found = truth.copy()
    found[0, 0], found[1, 0], found[0, 9], found[:, 6] = (5, 0), (5.1, 0), (1.05, 0), (99, 0)
    figures = pckh(found, truth, visible, np.array([10.0, 10.0]), MPII.keypoints)
    assert figures["right_ankle"] == 50 and figures["head_top"] == 100
    assert figures["mean"] == pytest.approx(200 / 3)  # not 75; the pelvis does not count
    assert figures["mean@0.1"] == pytest.approx(100 / 3)  # 0.105 of a head is right at "0.1"
    assert set(figures) == {"right_ankle", "head_top", "mean", "mean@0.1"}


def test_average_precision_is_that_of_the_oracle(shared_data):
    root = shared_data / "oracles" / "xtcoco"
    if not root.is_dir():
        pytest.skip(f"shared data: no folder {root}")
    people = json.loads((root / "example_coco_preds.json").read_text())
    figures = average_precision(root / "example_coco_val.json", people)
    expected = {"AP": 0.861, "AP50": 0.993, "AP75": 0.911, "AR": 0.875}
    assert {name: round(figures[name], 3) for name in expected} == expected


def test_of_alike_people_the_best_stays(coco):
    points = np.stack([coco.persons[0].points] * 3)
    points[1] += 2.0
    points[2] += 500.0
    areas, scores = np.full(3, 9e4), np.array([0.5, 0.9, 0.1])
    assert similarity(points[0], points[:1], 9e4, areas[:1]) == 1
    assert suppressed(points, scores, areas).tolist() == [1, 2]
    assert person_score(0.5, np.array([0.1, 0.4, 0.8])) == pytest.approx(0.3)
    assert person_score(0.5, np.zeros(17)) == 0


@pytest.mark.parametrize("absent", ["area", "num_keypoints", "iscrowd"])
def test_training_needs_no_field_that_only_the_metric_reads(files, absent, tmp_path):
    _, write_coco = files
    path, images = write_coco()
    content = json.loads(Path(path).read_text())
    del content["annotations"][0][absent]
    Path(path).write_text(json.dumps(content))
    assert len(read_coco(path, images).persons) == 1
