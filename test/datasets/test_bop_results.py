# SPDX-License-Identifier: Apache-2.0
"""Results files: what is written is read again, and a wrong line is refused by name."""

import numpy as np
import pytest

from pose_kd_ros.core.pose import from_rotation_vector, make_pose
from pose_kd_ros.datasets.bop.results import BopResult, read_results, write_results
from pose_kd_ros.datasets.faults import DatasetError

LINE = "2,3,1,0.5,1 0 0 0 1 0 0 0 1,10 20 1000,0.25"


def test_what_is_written_is_read(tmp_path):
    pose = make_pose(from_rotation_vector((0.1, -0.7, 0.4)), (0.0123456789, -1 / 3, 0.7))
    written = [BopResult(2, 3, 1, 1 / 3, pose, 0.125), BopResult(2, 4, 12, 1e-9, np.eye(4))]
    write_results(tmp_path / "out.csv", written)
    read = read_results(tmp_path / "out.csv")
    assert [r.__dict__ | {"T_camera_object": 0} for r in read] == [
        w.__dict__ | {"T_camera_object": 0} for w in written
    ]
    for a, b in zip(read, written):
        np.testing.assert_array_equal(a.T_camera_object[:3, :3], b.T_camera_object[:3, :3])
        np.testing.assert_allclose(a.T_camera_object[:3, 3], b.T_camera_object[:3, 3], rtol=1e-15)


def test_units_and_a_missing_header(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text(LINE + "\n\n")
    (result,) = read_results(path)
    np.testing.assert_allclose(result.T_camera_object[:3, 3], [0.01, 0.02, 1.0])
    assert result.seconds == 0.25


def test_rotations_stay_as_they_are_written(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text(LINE.replace("1 0 0 0 1 0 0 0 1", "1.004 0 0 0 1.004 0 0 0 1.004"))
    assert read_results(path)[0].T_camera_object[0, 0] == 1.004


@pytest.mark.parametrize(
    "line, message",
    [
        (LINE + ",7", "line 3: wanted 7 columns"),
        (LINE.replace("2,3,1", "2,3,one"), "line 3, column obj_id: wanted a whole number, found 'one'"),
        (LINE.replace("0.5", "nan"), "line 3, column score: wanted 1 finite numbers, found 'nan'"),
        (LINE.replace("10 20 1000", "10 20"), "line 3, column t: wanted 3 finite numbers, found '10 20'"),
        (LINE.replace("1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0 -1"), "line 3, column R: wanted a rotation"),
        (LINE.replace("0.25", "0.5"), "line 3, column time: wanted 0.25 s, as the first line of scene 2"),
    ],
)
def test_a_wrong_line_is_refused_by_name(tmp_path, line, message):
    path = tmp_path / "out.csv"
    path.write_text(f"scene_id,im_id,obj_id,score,R,t,time\n{LINE}\n{line}\n")
    with pytest.raises(DatasetError) as error:
        read_results(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_no_file_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read"):
        read_results(tmp_path / "none.csv")
