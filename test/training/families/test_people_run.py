# SPDX-License-Identifier: Apache-2.0
"""People from annotation files to a bundle: trained, exported, measured through the robot's engine."""

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from pose_kd_ros.bundle.store import open_bundle  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.config import RunConfig, load_config  # noqa: E402
from training.data.people import COCO  # noqa: E402
from training.data.people_crops import PeopleCropConfig  # noqa: E402
from training.data.people_source import PeopleConfig  # noqa: E402
from training.export.run import export_run  # noqa: E402
from training.fit.train import make_dataset, train  # noqa: E402
from training.losses.online import OnlineConfig  # noqa: E402
from training.models.heatmap import HeatmapConfig  # noqa: E402
from training.recipes import RECIPES  # noqa: E402
from training.recipes.people import _epoch  # noqa: E402

SHAPE = HeatmapConfig("darknet-tiny-h", depths=(1, 1), widths=(16,) * 2, aggregation="fau-slim", keypoints=17)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """COCO's files for three pictures with a person each: dots for joints."""
    root, random = tmp_path_factory.mktemp("people"), np.random.RandomState(0)
    images, annotations = [], []
    for number in range(3):
        picture = random.randint(0, 60, (160, 200, 3)).astype(np.uint8)
        points = random.uniform((60, 20), (140, 140), (17, 2)).round()
        for u, v in points.astype(int):
            cv2.circle(picture, (int(u), int(v)), 3, (255, 255, 255), -1)
        cv2.imwrite(str(root / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 160})
        joints = np.c_[points, np.full(17, 2)].ravel().tolist()
        about = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": 17}
        annotations.append(about | {"bbox": [55, 15, 90, 130], "area": 9000.0, "keypoints": joints})
    person = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}
    content = {"images": images, "annotations": annotations, "categories": [person]}
    (root / "people.json").write_text(json.dumps(content))
    return root


def settings(files, runs, **changes):
    crops = PeopleCropConfig(size=64, aspect=0.75)
    people = PeopleConfig("coco", files / "people.json", files, files / "people.json", crops=crops)
    return RunConfig(
        **{
            "name": "people",
            "data": files,
            "runs": runs,
            "people": people,
            "network": SHAPE,
            "online": OnlineConfig("ensemble"),
            "val_split": "val",
            "steps": 4,
            "batch_size": 2,
            "workers": 0,
            "precision": "32-true",
            "accelerator": "cpu",
            "log_every": 2,
            "val_every": 2,
        }
        | changes
    )


def test_people_train_export_and_are_measured(files, tmp_path, capsys):
    config = settings(files, tmp_path / "runs")
    train(config)
    assert load_config(config.folder) == config
    line = export_run(config.folder, tmp_path / "bundle", {}, 64, 2)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert "AP" in line and manifest.training.metrics["people"] == 2
    people = config.people.load(True)
    assert people.first(2).images == people.images[:2] and people.first(9) == people
    assert manifest.training.method == "online, ensemble (fau-slim), kl"
    assert manifest.people.keypoints == list(COCO.keypoints) and manifest.objects == []
    assert (manifest.input.size, manifest.input.aspect) == (64, 0.75)

    given = ["--kind", "coco", "--annotations", str(files / "people.json"), "--images", str(files)]
    out = tmp_path / "figures.json"
    main(["evaluate-people", str(tmp_path / "bundle"), *given, "--out", str(out)])
    assert json.loads(out.read_text())["people"] == 3 and "AP" in capsys.readouterr().out

    with pytest.raises(SystemExit) as ended:
        main(["evaluate-people", str(tmp_path / "bundle"), *given[:1], "mpii", *given[2:]])
    assert ended.value.code == 2


def test_a_network_of_another_skeleton_is_refused(files, tmp_path):
    shape = HeatmapConfig("darknet-tiny-h", keypoints=16)
    with pytest.raises(ValueError, match="wanted 17 and 1, found 16 and 1"):
        make_dataset(settings(files, tmp_path, network=shape, online=OnlineConfig()), "train")


def test_recipes_are_the_papers():
    run = RECIPES["mpii_hourglass4_okdhp_unbalanced"]()
    assert (run.network.shared, run.network.depths) == (2, (2, 4, 6))
    assert (run.lr, run.batch_size, run.weight_decay, run.schedule) == (2.5e-4, 16, 0.0, "milestones")
    assert run.steps == 150 * _epoch("mpii") and run.online.ramp * run.steps == 90 * _epoch("mpii")
    assert RECIPES["mpii_hourglass4_plain"]().network == run.network.plain
    assert RECIPES["coco_shufflenetv2_okdhp"]().input_size == (192, 256)
