# SPDX-License-Identifier: Apache-2.0
import json
from types import SimpleNamespace

import numpy as np
import pytest

from pose_kd_ros.core.camera import Camera
from pose_kd_ros.core.object_model import ObjectModel, box_corners
from pose_kd_ros.core.track import Tracker
from pose_kd_ros.pipeline.follow import ObjectFollower
from pose_kd_ros.pipeline.region import Region, overlap, projected_box
from pose_kd_ros.pipeline.solve import Estimates, ObjectPose

CAMERA = Camera([[300, 0, 160], [0, 300, 120], [0, 0, 1]], (), "plumb_bob", 320, 240)
MODEL = ObjectModel(1, "cube", 0.17, (0, 0, 0), (0.1, 0.1, 0.1), box_corners((0, 0, 0), (0.1, 0.1, 0.1)))
IMAGE = np.zeros((240, 320, 3), np.uint8)


def at(x):
    pose = np.eye(4)
    pose[:3, 3] = x, 0, 0.6
    return pose


class Eye:
    """Sees the cubes at ``places``: in a search all of them, in a region those inside."""

    def __init__(self, *places):
        self.objects = {1: MODEL}
        self.places, self.searched, self.regions = places, [], []

    def estimate(self, image, camera, regions, search, recover=False):
        self.searched.append(search)
        self.regions.append(regions)
        poses = [self._pose(x, None) for x in self.places if search]
        poses += [
            self._pose(x, r.track_id)
            for r in regions
            for x in self.places
            if self._inside(x, r) and not search
        ]
        return Estimates(poses, {"network": 1.0})

    def candidates(self, image, camera, known):
        self.searched[-1] = True
        boxes = [projected_box(at(x), MODEL, CAMERA) for x in self.places]
        return [Region(box, 1) for box in boxes if all(overlap(box, k) < 0.5 for k in known)]

    def _inside(self, x, region):
        u = CAMERA.project(at(x)[:3, 3])[0]
        return region.box[0] < u < region.box[2]

    def _pose(self, x, track_id):
        box = projected_box(at(x), MODEL, CAMERA)
        return ObjectPose(1, at(x), np.eye(6) * 1e-6, 0.9, box, 10, 1.0, 1.0, track_id)


def follower(eye, **options):
    return ObjectFollower(eye, Tracker(eye.objects), **options)


def run(follow, count, start=0.0, step=0.04, regions=()):
    frames = []
    for i in range(count):
        frames.append(follow.process(start + i * step, IMAGE, CAMERA, regions).tracks)
        follow.look_around()
    return frames


def test_what_is_measured_is_looked_for_where_it_was_and_the_frame_searched_once_a_period():
    eye = Eye(0.0)
    tracks = run(follower(eye, search_period=1.0), 60)
    assert np.flatnonzero(eye.searched).tolist() == [0, 25, 50]
    assert all(len(regions) == 1 for regions in eye.regions[1:])
    assert {t.id for frame in tracks for t in frame} == {1}
    assert [frame[0].state for frame in tracks[:3]] == ["new", "tracked", "tracked"]


def test_while_nothing_is_measured_each_frame_is_searched():
    eye = Eye()
    run(follower(eye), 5)
    assert eye.searched == [True] * 5
    eye.places = (0.0,)
    follow = follower(eye)
    run(follow, 3)
    eye.places, eye.searched = (), []
    run(follow, 4, start=1.0)
    assert eye.searched[1:] == [True] * 3


def test_a_second_object_is_found_after_the_frame_of_the_first_was_done():
    eye = Eye(0.0)
    follow = follower(eye, search_period=0.0)
    run(follow, 1)
    eye.places = (0.0, 0.15)
    follow.process(0.04, IMAGE, CAMERA)
    assert eye.searched == [True, False]  # the frame did not wait for a search
    follow.look_around()
    assert [t.state for t in follow.process(0.08, IMAGE, CAMERA).tracks] == ["tracked", "new"]


def test_one_new_place_is_looked_at_in_a_frame():
    eye = Eye(0.0)
    follow = follower(eye, search_period=0.5)
    run(follow, 1)
    eye.places = (0.0, -0.15, 0.15)
    counts = [len(tracks) for tracks in run(follow, 4, start=0.6)]
    assert counts == [1, 2, 3, 3]
    assert [len(regions) for regions in eye.regions[1:]] == [1, 2, 3, 3]


def test_while_all_that_are_expected_are_measured_nothing_is_searched():
    eye = Eye(0.0, 0.15)
    run(follower(eye, search_period=0.0, expected_count=2), 20)
    assert np.flatnonzero(eye.searched).tolist() == [0]
    eye = Eye(0.0)
    run(follower(eye, search_period=0.0, expected_count=2), 20)
    assert all(eye.searched)


def test_a_restored_follower_still_knows_where_to_look():
    eye = Eye(0.0)
    follow = follower(eye, search_period=0.0)
    run(follow, 1)
    eye.places = (0.0, -0.15, 0.15)
    run(follow, 1, start=0.04)
    again = follower(eye, search_period=0.0)
    again.restore(json.loads(json.dumps(follow.state())))
    assert len(again.process(0.08, IMAGE, CAMERA).tracks) == 2


def test_regions_that_are_given_add_to_those_of_tracks_unless_they_say_the_same():
    eye = Eye(-0.1)
    follow = follower(eye, search=False)
    here, elsewhere = Region(projected_box(at(-0.1), MODEL, CAMERA)), Region([250, 90, 300, 140])
    assert run(follow, 1, regions=[here])[0][0].state == "new"
    run(follow, 1, start=0.04, regions=[here, elsewhere])
    assert eye.searched == [False] * 2
    assert [r.track_id for r in eye.regions[1]] == [1, None] and eye.regions[1][1] is elsewhere


class ShortSighted(Eye):
    """Sees nothing where tracks look for their objects, as a network that dislikes their crop."""

    def estimate(self, image, camera, regions, search, recover=False):
        seen = super().estimate(image, camera, regions, search, recover)
        return Estimates([pose for pose in seen.poses if pose.track_id is None], seen.stages_ms)


def test_a_given_region_is_looked_at_where_the_track_finds_nothing():
    here = Region(projected_box(at(0.0), MODEL, CAMERA))
    frames = run(follower(ShortSighted(0.0), search=False), 40, regions=[here])
    assert [frame[0].state for frame in frames] == ["new"] + ["tracked"] * 39


def test_no_more_objects_are_followed_than_were_asked_for():
    eye = Eye(-0.2, 0.0, 0.2)
    tracks = run(follower(eye, max_instances=2), 3)
    assert [len(frame) for frame in tracks] == [2, 2, 2]
    assert max(map(len, eye.regions)) == 2


def test_the_order_of_stamps():
    follow = follower(Eye(0.0))
    assert follow.order(100.0) == "next"
    follow.process(100.0, IMAGE, CAMERA)
    assert [follow.order(s) for s in (100.001, 100.0, 99.9, 99.0)] == ["next", "late", "late", "jumped"]
    with pytest.raises(ValueError, match="does not follow"):
        follow.process(99.0, IMAGE, CAMERA)
    follow.reset()
    assert follow.process(99.0, IMAGE, CAMERA).tracks[0].state == "new"


def test_an_object_that_left_the_view_is_not_looked_for():
    eye = Eye(0.0)
    follow = follower(eye)
    run(follow, 2)
    turned = SimpleNamespace(**{**vars(CAMERA), "project": lambda points: CAMERA.project(points) + 10_000})
    follow.process(0.2, IMAGE, turned)
    assert eye.regions[-1] == []


def test_an_object_that_was_found_is_not_found_again_beside_a_region():
    """The track's own crop shows that the object moved on; the crop about an old region shows it, too."""

    class WideEye(Eye):
        def _inside(self, x, region):
            return True

    eye = WideEye(0.0)
    follow = follower(eye)
    run(follow, 3)
    eye.places = (0.05,)
    expected, moved = (projected_box(at(x), MODEL, CAMERA) for x in (0.0, 0.05))
    old = Region(expected - [20, 0, 20, 0], 1)
    assert overlap(old.box, expected) > 0.3 > overlap(old.box, moved)
    tracks = follow.process(0.2, IMAGE, CAMERA, [old]).tracks
    assert len(eye.regions[-1]) == 1 and sum(track.measured is not None for track in tracks) == 1
