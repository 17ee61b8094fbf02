# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip("rosbags")
from recordings import CAMERA, FRAME, header, image_at, info_at, make, pose_message, tf_at, write

from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.pose import from_rotation_vector, inverse, make_pose, to_quaternion
from pose_kd_ros.evaluation.truth import Names, make_truth
from pose_kd_ros.recordings.bags import BagError, open_bag
from pose_kd_ros.recordings.images import BagFrame

BOX = ObjectModel(7, "box", 0.1, np.zeros(3), np.full(3, 0.05), box_corners((0, 0, 0), (0.05,) * 3))
CAN = ObjectModel(8, "can", 0.1, np.zeros(3), np.full(3, 0.05), box_corners((0, 0, 0), (0.05,) * 3))
POSE = make_pose(from_rotation_vector((0.1, 0.2, 0.3)), (0.1, -0.05, 0.6))
LATER = make_pose(from_rotation_vector((0.1, 0.2, 0.3)), (0.3, -0.05, 0.6))
MS = 1_000_000
FIRST, SECOND = 1000 * MS, 1100 * MS


def frame(stamp, number=0):
    return BagFrame(number, stamp, FRAME, np.zeros((2, 2, 3), np.uint8), None)


def truth_of(path, source, given=(), objects=(BOX,)):
    with open_bag(path) as bag:
        return make_truth(source, bag, Names(dict(given), {model.id: model for model in objects}))


@pytest.fixture
def bag(tmp_path):
    return lambda *messages: write(tmp_path / "bag", messages)


def stamped(stamp, pose, frame_id=FRAME):
    fields = dict(header=header(stamp, frame_id), pose=pose_message(pose))
    return "/truth", "geometry_msgs/msg/PoseStamped", stamp, make("geometry_msgs/PoseStamped", **fields)


def same(found, wanted):
    np.testing.assert_allclose(found.T_camera_object, wanted, atol=1e-12)


def test_stamped_poses_are_interpolated_and_not_extrapolated(bag):
    truth = truth_of(bag(stamped(FIRST, POSE), stamped(SECOND, LATER)), "/truth")
    (pose,) = truth(frame(FIRST + 25 * MS))
    assert pose.object_id == 7 and pose.T_camera_object[0, 3] == pytest.approx(0.15)
    assert truth(frame(FIRST - MS)) is None and truth(frame(SECOND + MS)) is None
    same(truth(frame(SECOND))[0], LATER)


def test_rotations_take_the_shortest_way(bag):
    quarter = make_pose(from_rotation_vector((0, 0, np.pi / 2)), (0, 0, 1))
    truth = truth_of(bag(stamped(FIRST, make_pose(np.eye(3), (0, 0, 1))), stamped(SECOND, quarter)), "/truth")
    same(truth(frame(FIRST + 50 * MS))[0], make_pose(from_rotation_vector((0, 0, np.pi / 4)), (0, 0, 1)))


def test_a_pose_in_another_frame_comes_by_tf(bag):
    T_world_camera = make_pose(from_rotation_vector((0, 0.5, 0)), (1, 2, 3))
    path = bag(
        tf_at(FIRST, "world", "mount", T_world_camera, "/tf_static"),
        tf_at(FIRST, "mount", FRAME, np.eye(4)),
        tf_at(SECOND, "mount", FRAME, np.eye(4)),
        stamped(FIRST, T_world_camera @ POSE, "world"),
        stamped(SECOND, T_world_camera @ LATER, "world"),
    )
    same(truth_of(path, "/truth")(frame(FIRST))[0], POSE)


def test_tf_of_a_moving_camera_and_a_still_object(bag):
    T_world_object = make_pose(from_rotation_vector((1, 0, 0)), (0.5, 0, 0))
    first, second = (T_world_object @ inverse(pose) for pose in (POSE, LATER))
    path = bag(
        tf_at(0, "world", "cube", T_world_object, "/tf_static"),
        tf_at(FIRST, "world", FRAME, first),
        tf_at(SECOND, "world", FRAME, second),
    )
    truth = truth_of(path, "tf:cube")
    same(truth(frame(FIRST))[0], POSE)
    halfway = truth(frame(FIRST + 50 * MS))[0].T_camera_object
    np.testing.assert_allclose(halfway[:3, 3], (0.2, -0.05, 0.6), atol=1e-12)
    assert truth(frame(SECOND + MS)) is None
    with pytest.raises(BagError, match=r"wanted frames of TF, .*cube.*, found ball"):
        truth_of(path, "tf:ball")


def test_an_array_and_detections_belong_to_the_picture_of_their_stamp(bag):
    poses = make(
        "geometry_msgs/PoseArray", header=header(FIRST), poses=[pose_message(POSE), pose_message(LATER)]
    )
    path = bag(("/truth", "geometry_msgs/msg/PoseArray", FIRST, poses))
    truth = truth_of(path, "/truth")
    assert len(truth(frame(FIRST + MS // 2))) == 2 and truth(frame(FIRST + 2 * MS)) is None


def detection(name, pose):
    covariance = make("geometry_msgs/PoseWithCovariance", pose=pose_message(pose), covariance=np.zeros(36))
    hypothesis = make("vision_msgs/ObjectHypothesis", class_id=name, score=1.0)
    result = make("vision_msgs/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=covariance)
    size = make("geometry_msgs/Vector3", x=0.0, y=0.0, z=0.0)
    box = make("vision_msgs/BoundingBox3D", center=pose_message(pose), size=size)
    return make("vision_msgs/Detection3D", header=header(FIRST), results=[result], bbox=box, id="")


def test_detections_name_their_classes(bag):
    array = make(
        "vision_msgs/Detection3DArray",
        header=header(FIRST),
        detections=[detection("can", POSE), detection("crate", LATER)],
    )
    path = bag(("/truth", "vision_msgs/msg/Detection3DArray", FIRST, array))
    poses = truth_of(path, "/truth", {"crate": 7}, (BOX, CAN))(frame(FIRST))
    assert [pose.object_id for pose in poses] == [8, 7]
    same(poses[1], LATER)
    with pytest.raises(BagError, match=r"one of the objects .*, found 'crate': .*--object crate=ID"):
        truth_of(path, "/truth", {}, (BOX, CAN))


def row(key, object_id, values):
    return ",".join(str(value) for value in (key, object_id, *values)) + "\n"


@pytest.mark.parametrize("key", ["frame", "stamp_ns"])
@pytest.mark.parametrize("columns", [7, 16])
def test_a_file_by_number_or_stamp(bag, tmp_path, key, columns):
    values = [*POSE[:3, 3], *to_quaternion(POSE[:3, :3])] if columns == 7 else POSE.reshape(-1)
    head = ",".join([key, "object_id", *(f"c{i}" for i in range(columns))]) + "\n"
    (tmp_path / "truth.csv").write_text(head + row({"frame": 3, "stamp_ns": FIRST}[key], 7, values))
    path = bag(info_at("/info", 1), image_at("/image", 2, np.zeros((CAMERA.height, CAMERA.width), np.uint8)))
    truth = truth_of(path, str(tmp_path / "truth.csv"))
    same(truth(frame(FIRST, 3))[0], POSE)
    assert not truth(frame(SECOND, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: wanted frame or stamp_ns, object_id, then 7 or 16 columns, found nothing"),
        ("frame,object_id,x\n", "line 1: .*found frame, object_id, x"),
        ("frame,object_id,a,b,c,d,e,f,g\n1,1,0,0\n", "line 2: wanted 9 columns as in line 1, found 4"),
        ("frame,object_id,a,b,c,d,e,f,g\n1,one,0,0,0,0,0,0,1\n", "line 2: .*one"),
        ("frame,object_id,a,b,c,d,e,f,g\n1,1,0,0,0,0,0,0,0\n", "line 2: "),
        (
            "frame,object_id" + ",m" * 16 + "\n1,1" + ",2" * 16 + "\n",
            "line 2: pose: rotation is not orthonormal",
        ),
    ],
)
def test_a_poor_file_is_refused_by_line(bag, tmp_path, text, words):
    (tmp_path / "truth.csv").write_text(text)
    path = bag(stamped(FIRST, POSE))
    with pytest.raises(BagError, match=rf"truth\.csv: {words}"):
        truth_of(path, str(tmp_path / "truth.csv"))


def test_what_is_no_source_of_truth_is_refused(bag):
    path = bag(tf_at(FIRST, "a", "b", np.eye(4)))
    with pytest.raises(BagError, match="wanted tf:CHILD, a file, or a topic of /tf"):
        truth_of(path, "/nothing")
    with pytest.raises(BagError, match=r"/tf: wanted geometry_msgs.*, found tf2_msgs/msg/TFMessage"):
        truth_of(path, "/tf")
