# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_kd_ros.core.metrics import error_vector
from pose_kd_ros.core.object_model import ObjectModel, box_corners, expand_symmetries
from pose_kd_ros.core.pose import make_pose, rotation_angle
from pose_kd_ros.core.refine import moved, with_origin_moved
from pose_kd_ros.core.track import Tracker, _assigned

EDGE = 0.084
STEP = 0.04


def model(identity=1, symmetries=None):
    symmetries = np.eye(4)[None] if symmetries is None else symmetries
    center, size = np.zeros(3), np.full(3, EDGE)
    corners = box_corners(center, size)
    return ObjectModel(identity, f"cube{identity}", EDGE * 3**0.5, center, size, corners, symmetries)


QUARTERS = expand_symmetries((), [([0, 0, 1], [0, 0, 0])], 4)
OBJECTS = {1: model(1), 2: model(2), 3: model(3, QUARTERS)}


@dataclass
class Seen:
    pose: np.ndarray
    object_id: int = 1
    score: float = 0.9
    covariance: np.ndarray = field(default_factory=lambda: np.diag([1e-6, 1e-6, 1e-5, 1e-4, 1e-4, 1e-4]))


def tracker_of(**options):
    """A tracker that believes in what it saw once."""
    return Tracker(OBJECTS, **{"confirm_hits": 1, "confirm_frames": 1, **options})


def at(x, y=0.0, z=0.6, rotation=None):
    return make_pose(np.eye(3) if rotation is None else rotation, [x, y, z])


def states(tracks):
    return {t.id: t.state for t in tracks}


def test_states_from_new_to_lost_once():
    tracker = tracker_of(ttl=0.1)
    assert states(tracker.update(0.0, [])) == {}
    assert states(tracker.update(0.04, [Seen(at(0))])) == {1: "new"}
    assert states(tracker.update(0.08, [Seen(at(0.001))])) == {1: "tracked"}
    assert states(tracker.update(0.12, [])) == {1: "predicted"}
    assert states(tracker.update(0.18, [])) == {1: "predicted"}
    assert states(tracker.update(0.19, [])) == {1: "lost"}
    assert tracker.update(0.23, []) == []
    assert states(tracker.update(0.27, [Seen(at(0))])) == {2: "new"}


def test_seen_again_within_ttl_keeps_the_id():
    tracker = tracker_of(ttl=0.5, smooth=False)
    tracker.update(0.0, [Seen(at(0))])
    tracker.update(0.2, [])
    (track,) = tracker.update(0.4, [Seen(at(0.02), score=0.7)])
    assert (track.id, track.state, track.hits, track.score) == (1, "tracked", 2, 0.7)
    assert track.age == pytest.approx(0.4) and track.stamp == 0.4
    np.testing.assert_array_equal(track.pose, at(0.02))
    np.testing.assert_array_equal(track.covariance, Seen(at(0)).covariance)


def test_ttl_zero_still_tracks_what_is_seen():
    tracker = tracker_of(ttl=0.0)
    tracker.update(0.0, [Seen(at(0))])
    assert states(tracker.update(STEP, [Seen(at(0))])) == {1: "tracked"}
    assert states(tracker.update(2 * STEP, [])) == {1: "lost"}


def test_touching_cubes_keep_their_ids_in_any_order():
    tracker, random = tracker_of(), np.random.default_rng(0)
    for frame in range(20):
        shift = 0.01 * frame
        seen = [Seen(at(shift)), Seen(at(shift + EDGE))]
        order = random.permutation(2) if frame else [0, 1]
        left, right = tracker.update(frame * STEP, [seen[i] for i in order])
        assert (left.id, right.id) == (1, 2)
        assert left.pose[0, 3] < right.pose[0, 3]


def test_fast_motion_is_followed():
    """1.5 m/s, 10 diameters per second: beyond a standing object's gate, within a moving one's."""
    tracker, x, speed = tracker_of(), 0.0, 0.0
    for frame in range(30):
        (track,) = tracker.update(frame * STEP, [Seen(at(x))])
        assert track.id == 1
        speed = min(speed + 0.3, 1.5)
        x += speed * STEP
    (expected,) = tracker.predict(30 * STEP)
    assert abs(expected.pose[0, 3] - x) < 0.02
    assert abs(track.pose[0, 3] - x) > 0.05


def test_coming_back_does_not_make_it_race():
    """After frames unseen, the velocity is what happened since it was last seen, not since the last frame."""
    tracker = tracker_of(ttl=1.0)
    tracker.update(0.0, [Seen(at(0))])
    for frame in range(1, 10):
        tracker.update(frame * STEP, [])
    (track,) = tracker.update(0.4, [Seen(at(0.04))])
    assert 0 < track.motion.velocity[0] < 0.11


def test_another_object_far_off_is_new():
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0))])
    assert states(tracker.update(STEP, [Seen(at(0.4))])) == {1: "predicted", 2: "new"}


def test_an_uncertain_track_takes_a_sure_detection():
    loose = np.diag([0.08**2] * 3 + [1e-4] * 3)
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0), covariance=loose)])
    assert states(tracker.update(STEP, [Seen(at(0.2))])) == {1: "tracked"}
    tracker.reset()
    tracker.update(0.0, [Seen(at(0))])
    assert states(tracker.update(STEP, [Seen(at(0.2), covariance=loose)])) == {1: "tracked"}


def test_a_long_gap_does_not_open_the_gate_for_ever():
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0))])
    assert states(tracker.update(60.0, [Seen(at(1.5))])) == {1: "lost", 2: "new"}


def test_tracks_come_by_id():
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0)), Seen(at(0.3))])
    assert [t.id for t in tracker.update(STEP, [Seen(at(0.3)), Seen(at(-0.3))])] == [1, 2, 3]


def test_classes_do_not_mix():
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0), 1)])
    tracks = tracker.update(STEP, [Seen(at(0), 2)])
    assert [(t.id, t.object_id, t.state) for t in tracks] == [(1, 1, "predicted"), (2, 2, "new")]


def test_uncertain_depth_widens_the_gate_along_it():
    loose = np.diag([1e-6, 1e-6, 0.05**2, 1e-4, 1e-4, 1e-4])
    for covariance, same in ((loose, True), (Seen(at(0)).covariance, False)):
        tracker = tracker_of()
        tracker.update(0.0, [Seen(at(0), covariance=covariance)])
        tracks = tracker.update(STEP, [Seen(at(0, z=0.75), covariance=covariance)])
        assert (len(tracks) == 1) is same


def test_prediction_grows_uncertain_and_stops():
    tracker = tracker_of(ttl=10)
    for frame in range(10):
        tracker.update(frame * STEP, [Seen(at(0.02 * frame))])
    soon, late = tracker.predict(10 * STEP)[0], tracker.predict(60 * STEP)[0]
    assert soon.state == "predicted" and soon.id == 1
    assert soon.covariance[0, 0] > Seen(at(0)).covariance[0, 0]
    assert late.covariance[0, 0] > 50 * soon.covariance[0, 0]
    assert 0.19 < soon.pose[0, 3] < 0.21 and late.pose[0, 3] < 0.18 + 0.5 * 0.2 + 0.01
    at_once = tracker.predict(20 * STEP)[0].pose
    for frame in range(10, 20):
        tracker.update(frame * STEP, [])
    np.testing.assert_allclose(tracker.predict(20 * STEP)[0].pose, at_once)


@pytest.mark.parametrize("frames", [1, 5, 40])
def test_uncertainty_grows_with_time_and_not_with_frames(frames):
    tracker = tracker_of(ttl=10)
    tracker.update(0.0, [Seen(at(0))])
    at_once = tracker.predict(0.8)[0].covariance
    for frame in range(1, frames):
        tracker.update(0.8 * frame / frames, [])
    np.testing.assert_allclose(tracker.predict(0.8)[0].covariance, at_once)


def test_predicting_changes_nothing():
    tracker = tracker_of()
    tracker.update(0.0, [Seen(at(0))])
    tracker.predict(5.0)
    assert states(tracker.update(STEP, [Seen(at(0))])) == {1: "tracked"}
    assert tracker.predict(0.0) == []


def test_symmetric_objects_keep_their_frame():
    """Detections come as any of four representatives while the object turns slowly through all of them."""
    tracker, random, last = tracker_of(smooth=False), np.random.default_rng(1), None
    for frame in range(80):
        turn = Rotation.from_rotvec([0, 0, np.radians(5.0 * frame)]).as_matrix()
        seen = at(0, rotation=turn) @ QUARTERS[random.integers(4)]
        (track,) = tracker.update(frame * STEP, [Seen(seen, 3)])
        if last is not None:
            assert rotation_angle(last, track.pose[:3, :3]) == pytest.approx(np.radians(5), abs=1e-6)
        last = track.pose[:3, :3]


def test_symmetry_with_an_offset_moves_the_covariance_along():
    around = expand_symmetries((), [([0, 0, 1], [0.05, 0, 0])], 2)
    covariance = np.diag([1e-6, 1e-6, 1e-6, 0, 0, 1e-4])
    tracker = Tracker({1: model(1, around)}, smooth=False)
    tracker.update(0.0, [Seen(at(0), covariance=covariance)])
    (track,) = tracker.update(STEP, [Seen(at(0) @ around[1], covariance=covariance)])
    np.testing.assert_allclose(track.pose, at(0), atol=1e-9)
    assert track.covariance[1, 1] == pytest.approx(1e-6 + (0.1 * 0.01) ** 2)


def test_origin_moved_by_hand():
    covariance = with_origin_moved(np.diag([0, 0, 0, 0, 0, 1e-4]), [0.1, 0, 0])
    np.testing.assert_allclose(np.diag(covariance), [0, 1e-6, 0, 0, 0, 1e-4])
    assert covariance[1, 5] == pytest.approx(1e-5)  # turning left moves it up


def test_time_that_goes_back_forgets():
    tracker = tracker_of()
    for stamp in (5.0, 5.04):
        tracker.update(stamp, [Seen(at(0))])
    assert states(tracker.update(1.0, [Seen(at(0))])) == {1: "new"}
    with pytest.raises(ValueError, match="nan is not a time"):
        tracker.update(np.nan, [])


def test_equal_stamps_are_no_division_by_zero():
    tracker = tracker_of()
    for _ in range(3):
        (track,) = tracker.update(1.0, [Seen(at(0))])
    assert np.isfinite(track.motion.velocity).all() and track.hits == 3


def test_reset():
    tracker = tracker_of()
    tracker.update(1.0, [Seen(at(0))])
    tracker.reset()
    assert tracker.predict(2.0) == []
    assert states(tracker.update(0.0, [Seen(at(0))])) == {1: "new"}


def test_same_input_same_tracks():
    def play():
        random, tracker, rows = np.random.default_rng(2), tracker_of(), []
        for frame in range(30):
            classes = random.integers(1, 4, random.integers(4))
            seen = [Seen(at(*random.normal(size=2) * 0.02), int(k)) for k in classes]
            rows += [(t.id, t.state, t.pose.tolist()) for t in tracker.update(frame * STEP, seen)]
        return rows

    assert play() == play()


def test_each_row_and_column_is_used_once_at_the_least_cost():
    assert _assigned(np.zeros((0, 2))) == _assigned(np.zeros((2, 0))) == []
    assert _assigned(np.array([[5.0, 1]])) == [(0, 1)] and _assigned(np.array([[5.0], [1]])) == [(1, 0)]
    assert _assigned(np.array([[1.0, 2], [1, 9]])) == [(0, 1), (1, 0)]  # not the nearest of each


def test_the_filter_takes_out_the_noise_and_follows_the_motion():
    """Even motion at 0.2 m/s with noise of 3 mm and 0.05 rad, as stated."""
    random = np.random.default_rng(3)
    covariance = np.diag([0.003**2] * 3 + [0.05**2] * 3)
    noise = random.normal(size=(80, 6)) * np.sqrt(np.diag(covariance))
    true = [at(0.2 * i * STEP) for i in range(80)]
    seen = [Seen(moved(pose, step), covariance=covariance) for pose, step in zip(true, noise)]
    spread = []
    for smooth in (False, True):
        tracker = tracker_of(smooth=smooth)
        tracks = [tracker.update(i * STEP, [one])[0] for i, one in enumerate(seen)]
        errors = np.stack([error_vector(track.pose, pose) for track, pose in zip(tracks, true)])[20:]
        spread.append([np.diff(errors[:, :3], axis=0).std(), np.diff(errors[:, 3:], axis=0).std()])
        assert np.abs(errors[:, 0].mean()) < 0.003  # it does not lag behind by more than the noise
        assert {track.id for track in tracks} == {1}
    assert (np.array(spread[1]) < 0.65 * np.array(spread[0])).all()


def test_the_mean_of_many_measurements_is_not_stated_to_be_better_than_one():
    tracker = tracker_of()
    for frame in range(50):
        (track,) = tracker.update(frame * STEP, [Seen(at(0))])
    np.testing.assert_array_equal(track.covariance, Seen(at(0)).covariance)


def test_an_object_that_is_seen_turned_over_keeps_its_rotation():
    """Half a turn from one frame to the next is an error of the network; a second cube is somewhere else."""
    tracker, over = tracker_of(), Rotation.from_rotvec([0, 3.0, 0]).as_matrix()
    for frame in range(5):
        tracker.update(frame * STEP, [Seen(at(0))])
    (track,) = tracker.update(5 * STEP, [Seen(at(0, rotation=over))])
    assert (track.id, track.state) == (1, "predicted")
    assert rotation_angle(track.pose[:3, :3]) < 0.1
    assert states(tracker.update(6 * STEP, [Seen(at(0))])) == {1: "tracked"}
    assert states(tracker.update(7 * STEP, [Seen(at(0)), Seen(at(0.2, rotation=over))])) == {
        1: "tracked",
        2: "new",
    }


def test_an_object_that_stays_turned_over_is_believed():
    tracker, over = tracker_of(ttl=0.2), Rotation.from_rotvec([0, 3.0, 0]).as_matrix()
    tracker.update(0.0, [Seen(at(0))])
    found = [states(tracker.update(frame * STEP, [Seen(at(0, rotation=over))])) for frame in range(1, 10)]
    assert found[0] == {1: "predicted"} and found[-1] == {2: "tracked"}


def test_a_track_is_confirmed_when_it_was_seen_twice_in_three_frames():
    def seen(pattern):
        tracker = Tracker(OBJECTS)
        rows = [tracker.update(i * STEP, [Seen(at(0))] if one else []) for i, one in enumerate(pattern)]
        return [[(t.id, t.state, t.confirmed) for t in row] for row in rows]

    assert seen([1, 1, 0]) == [[(1, "new", False)], [(1, "tracked", True)], [(1, "predicted", True)]]
    assert seen([1, 0, 1]) == [[(1, "new", False)], [(1, "predicted", False)], [(1, "tracked", True)]]
    assert seen([1, 0, 0, 1]) == [[(1, "new", False)], [(1, "predicted", False)], [], [(2, "new", False)]]


def test_confirmation_counts_frames_since_the_first_not_misses_in_a_row():
    tracker = Tracker(OBJECTS, confirm_hits=3, confirm_frames=5)
    for i, seen in enumerate([1, 0, 0, 1, 0]):
        tracks = tracker.update(i * STEP, [Seen(at(0))] if seen else [])
    assert tracks == []  # two hits in five frames: given up


def test_a_detection_that_fits_no_track_does_not_take_another_from_its_own():
    """Two cubes side by side; one is hidden while a third appears far off."""
    tracker = tracker_of()
    for frame in range(10):
        tracker.update(frame * STEP, [Seen(at(0.0)), Seen(at(-0.1))])
    found = tracker.update(10 * STEP, [Seen(at(0.0)), Seen(at(1.0))])
    assert states(found) == {1: "tracked", 2: "predicted", 3: "new"}


def test_beyond_a_second_nothing_becomes_less_certain_in_however_many_frames():
    spread = []
    for frames in (1, 100):
        tracker = Tracker(OBJECTS, ttl=10, confirm_hits=1, confirm_frames=1)
        tracker.update(0.0, [Seen(at(0))])
        for frame in range(1, frames):
            tracker.update(5.0 * frame / frames, [])
        spread.append(tracker.predict(5.0)[0].covariance)
    np.testing.assert_allclose(spread[0], spread[1])


def test_what_is_not_confirmed_is_replaced_by_what_is_seen_in_its_place():
    tracker, over = (
        Tracker(OBJECTS),
        Rotation.from_rotvec([0, 3.0, 0]).as_matrix(),
    )
    tracker.update(0.0, [Seen(at(0, rotation=over))])
    assert states(tracker.update(STEP, [Seen(at(0))])) == {2: "new"}
    (track,) = tracker.update(2 * STEP, [Seen(at(0))])
    assert (track.id, track.confirmed) == (2, True)


def test_what_is_asked_of_a_tracker():
    for wrong in (dict(ttl=-1), dict(confirm_hits=0), dict(confirm_hits=3, confirm_frames=2)):
        with pytest.raises(ValueError, match="ttl >= 0"):
            tracker_of(**wrong)
