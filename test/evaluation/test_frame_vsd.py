# SPDX-License-Identifier: Apache-2.0
"""VSD on recordings with depth: drawn from the true poses, so that its figures are known beforehand."""

import json
from collections import deque

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("onnx")
pytest.importorskip("open3d", exc_type=ImportError)
from disc_bundle import TURN, write_disc_bundle
from recordings import (
    CAMERA,
    FRAME,
    RADIUS,
    ball_pose,
    disc_messages,
    image_at,
    path_of,
    stamps,
    tf_at,
    write,
)

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import box_corners
from pose_kd_ros.core.pose import make_pose
from pose_kd_ros.evaluation.__main__ import main
from pose_kd_ros.evaluation.frame_vsd import triangles
from pose_kd_ros.evaluation.shapes import BOX_FACES
from pose_kd_ros.evaluation.vsd import Caster, Rays
from pose_kd_ros.recordings.bags import open_bag
from pose_kd_ros.recordings.depth import DepthImages
from pose_kd_ros.recordings.images import BagImages

COUNT = 6
RAYS = Rays(CAMERA.matrix, CAMERA.width, CAMERA.height)
BOX = box_corners((0, 0, 0), (2 * RADIUS,) * 3), triangles(BOX_FACES)
WALL = 3.0  # metres


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


def depth_at(stamp, metres, encoding="16UC1", frame=FRAME):
    """A depth image, metres (H, W)."""
    topic, kind, at, message = image_at("/depth", stamp, np.zeros(metres.shape, np.uint8), frame)
    values = np.round(1e3 * metres).astype("<u2") if encoding == "16UC1" else metres.astype("<f4")
    message.encoding, message.step = encoding, values.strides[0]
    message.data = values.view(np.uint8).reshape(-1)
    return topic, kind, at, message


def seen(pose):
    """What a depth camera measures of the ball's box before a wall, metres (H, W)."""
    distance = Caster({1: BOX}).distance(1, pose, RAYS)
    return np.where(distance > 0, distance * RAYS.directions[..., 2], WALL)


def scene(*depths):
    """The disc's pictures, its true poses on TF, and depth images that come after their pictures."""
    poses = [ball_pose(*place, TURN) for place in path_of(COUNT)]
    truth = [tf_at(stamp, FRAME, "ball", pose) for stamp, pose in zip(stamps(COUNT), poses)]
    messages = [*disc_messages(COUNT), *truth, *(d for d in depths if d is not None)]
    return sorted(messages, key=lambda message: message[2])


def whole(encoding="16UC1"):
    poses = [ball_pose(*place, TURN) for place in path_of(COUNT)]
    return [depth_at(s + 2_000_000, seen(pose), encoding) for s, pose in zip(stamps(COUNT), poses)]


def evaluate(bag, bundle, out, *more):
    options = ["--truth", "tf:ball", "--object", "ball=1", "--mesh", "1=box", "--depth", "/depth", *more]
    code = main([str(bag), "--bundle", bundle, "--out", str(out), *options])
    return code, json.loads((out / "summary.json").read_text()) if code == 0 else None


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_right_poses_agree_with_the_depth_camera(bundle, tmp_path, encoding):
    code, summary = evaluate(write(tmp_path / "bag", scene(*whole(encoding))), bundle, tmp_path / "out")
    found = summary["figures"]
    assert code == 0 and not summary["faults"] and found["vsd"] > 0.7
    assert found["ar"] == pytest.approx((found["vsd"] + found["mssd"] + found["mspd"]) / 3)
    assert summary["objects"]["1"]["vsd"] == found["vsd"]


def test_what_stands_behind_something_is_not_seen_at_all(bundle, tmp_path):
    depths = [depth_at(stamp, np.full((CAMERA.height, CAMERA.width), 0.1)) for stamp in stamps(COUNT)]
    _, summary = evaluate(write(tmp_path / "bag", scene(*depths)), bundle, tmp_path / "out")
    assert summary["figures"]["vsd"] == 0 and summary["figures"]["found"] == 1


def test_pictures_without_depth_are_counted_and_the_others_measured(bundle, tmp_path):
    depths = whole()
    depths[1] = None
    depths[2] = depth_at(stamps(COUNT)[2] + 20_000_000, seen(ball_pose(*path_of(COUNT)[2], TURN)))
    depths[3] = depth_at(stamps(COUNT)[3], np.ones((CAMERA.height, CAMERA.width)), frame="depth_frame")
    bag = write(tmp_path / "bag", scene(*depths))
    evaluate(bag, bundle, tmp_path / "out", "--limit", "2")
    _, summary = evaluate(bag, bundle, tmp_path / "out")  # goes on
    assert summary["figures"]["vsd"] > 0.7 and "ar" not in summary["figures"]
    elsewhere = f"/depth: wanted depth registered to the pictures, 320x240 of {FRAME!r}, found 320x240 of "
    wanted = {"/depth: no depth within 10 ms of a picture": 2, f"{elsewhere}'depth_frame'": 1}
    assert summary["faults"] == wanted


def test_a_cut_recording_has_as_many_pictures_with_depth_as_without(bundle, tmp_path):
    """A file without its index is read from one place: pictures and depth each want their own."""
    path = write(tmp_path / "bag", scene(*whole())) / "bag.mcap"
    path.write_bytes(path.read_bytes()[:-100])
    with open_bag(path, salvage=True) as bag:
        count = len(list(BagImages(bag).frames()))
    out = tmp_path / "out"
    assert evaluate(path, bundle, out)[0] == 3 and count > 2
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()]
    assert len(lines) == count and all("vsd" in line for line in lines[:-1])


def test_depth_that_nobody_asks_for_is_not_kept(tmp_path, monkeypatch):
    """Where a run goes on, or truth begins late, all the depth before would fill the memory."""
    held = []

    class Counted(deque):
        def append(self, one):
            super().append(one)
            held.append(len(self))

    monkeypatch.setattr("pose_kd_ros.recordings.depth.deque", Counted)
    with open_bag(write(tmp_path / "bag", scene(*whole()))) as bag:
        *_, last = BagImages(bag).frames()
        assert DepthImages(bag, "/depth").at(last).max() == WALL
    assert max(held) == 1


TRUTH = ("--truth", "tf:ball", "--object", "ball=1")
MESH = ("--mesh", "1=box")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--depth", "/nothing", *TRUTH, *MESH), "no topic /nothing"),
        (("--depth", "/camera/camera_info", *TRUTH, *MESH), "found sensor_msgs/msg/CameraInfo"),
        (("--depth", "/depth", *TRUTH), "wanted --mesh, too"),
        (("--depth", "/depth", *MESH), "wanted --truth, too"),
    ],
)
def test_what_vsd_cannot_be_measured_with_is_refused(bundle, tmp_path, capsys, options, words):
    bag = write(tmp_path / "bag", scene(*whole()[:1]))
    assert main([str(bag), "--bundle", bundle, "--out", str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err


def test_the_rays_of_a_lens_meet_the_pixels_it_draws():
    camera = Camera(CAMERA.matrix, (0.2, -0.05, 0.001, 0.002, 0.0), "plumb_bob", CAMERA.width, CAMERA.height)
    rays, pose = Rays.of(camera), ball_pose(120, 90, 30, TURN)
    caster = Caster({1: BOX})
    met = caster.distance(1, pose, rays) > 0
    corners = camera.project(BOX[0] @ pose[:3, :3].T + pose[:3, 3])
    rows, columns = np.nonzero(met)
    assert abs(columns.min() - corners[:, 0].min()) <= 1 and abs(rows.max() - corners[:, 1].max()) <= 1
    assert rays.same(Rays.of(camera)) and not rays.same(RAYS)
    four = (CAMERA.matrix, (0.2, -0.05, 0.001, 0.002))
    kinds = "plumb_bob", "equidistant"
    bent, wide = (Rays.of(Camera(*four, kind, CAMERA.width, CAMERA.height)) for kind in kinds)
    assert not bent.same(wide)


def test_a_lens_that_bends_edges_outwards_cuts_nothing_off():
    """Half of a box's edge lies farther out than its corners do."""
    matrix = np.array([[450.0, 0, 320], [0, 450, 240], [0, 0, 1]])
    camera = Camera(matrix, (-0.35, 0.12, 0.0, 0.0, 0.0), "plumb_bob", 640, 480)
    rays, pose = Rays.of(camera), make_pose(np.eye(3), (0, 0, 0.25))
    v, u = np.mgrid[0:480, 0:640]
    front = np.abs(camera.rays(np.stack([u, v], -1).reshape(-1, 2))[:, :2]).max(1) * 0.2 < 0.05
    seen = Caster({1: BOX}).distance(1, pose, rays) > 0
    assert abs(seen.sum() - front.sum()) < 0.002 * front.sum()
