# SPDX-License-Identifier: Apache-2.0
"""People's keypoints as PointCloud2, and the way back.

Convention: one point for each keypoint that is seen, fields u, v (raw pixels of the image, not metres), score
in [0, 1], person (which of the given boxes) and keypoint (index into the names on ~/objects). A nose
(keypoint 0) of the second box at (10.5, 20) with score 0.9 is (10.5, 20, 0.9, 1, 0).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header, String

from ..core.sensor_messages import UnusableMessage
from ..pipeline.people import Person

POINT = np.dtype([("u", "<f4"), ("v", "<f4"), ("score", "<f4"), ("person", "<u4"), ("keypoint", "<u4")])
KINDS = {np.dtype("<f4"): PointField.FLOAT32, np.dtype("<u4"): PointField.UINT32}
FIELDS = [
    PointField(name=name, offset=4 * place, datatype=KINDS[POINT[name]], count=1)
    for place, name in enumerate(POINT.names or ())
]


def to_cloud(people: Iterable[Person], threshold: float, header: Header) -> PointCloud2:
    """Return the keypoints whose score exceeds ``threshold`` (and 0), under the image's header."""
    points = [
        (*point, score, person.number, keypoint)
        for person in people
        for keypoint, (point, score) in enumerate(zip(person.points, person.scores))
        if score > max(threshold, 0.0)
    ]
    cloud = PointCloud2(header=header, height=1, width=len(points), fields=FIELDS, is_dense=True)
    cloud.point_step, cloud.row_step = POINT.itemsize, POINT.itemsize * len(points)
    cloud.data.frombytes(np.array(points, POINT).tobytes())
    return cloud


def from_cloud(cloud: PointCloud2) -> np.ndarray:
    """Return the points (N,) of the type POINT. Raises UnusableMessage for a cloud of another kind."""
    count = cloud.width * cloud.height
    if cloud.fields != FIELDS or cloud.is_bigendian or len(cloud.data) != count * POINT.itemsize:
        found = ", ".join(field.name for field in cloud.fields)
        raise UnusableMessage("keypoints", f"keypoints: wanted a cloud of {POINT.names}, found {found}")
    return np.frombuffer(cloud.data, POINT)


def to_skeleton(bundle) -> String:
    """Return what a user of the keypoints must know, as JSON: their names, links and left-right pairs."""
    people = bundle.manifest.people
    rows = {"keypoints": people.keypoints, "links": people.links, "flip": people.flip}
    return String(data=json.dumps({"bundle": bundle.manifest.name, "units": "pixels", "people": rows}))
