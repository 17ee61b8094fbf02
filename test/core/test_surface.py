# SPDX-License-Identifier: Apache-2.0
"""Surface codes: every bit halves the surface, near points share leading bits, and codes name points."""

import numpy as np
import pytest

from pose_kd_ros.core.surface import BITS, SurfaceCodes, balanced_order, bits_of, codes_of


@pytest.fixture(scope="module")
def sphere() -> SurfaceCodes:
    points = np.random.default_rng(0).standard_normal((1 << BITS, 3))
    points *= 0.05 / np.linalg.norm(points, axis=1, keepdims=True)
    return SurfaceCodes(points[balanced_order(points)])


def test_the_order_keeps_every_point_once():
    points = np.random.default_rng(1).random((1 << BITS, 3))
    assert np.array_equal(np.sort(balanced_order(points)), np.arange(1 << BITS))


def test_the_first_bit_halves_along_the_longest_axis():
    points = np.random.default_rng(2).random((1 << BITS, 3)) * (1.0, 5.0, 1.0)
    ordered = points[balanced_order(points)]
    halves = ordered.reshape(2, -1, 3)[..., 1]
    assert halves[0].max() <= halves[1].min() or halves[1].max() <= halves[0].min()


def test_every_bit_leaves_less_of_the_surface(sphere):
    """A patch of a 2**-n share of a sphere of radius r has an RMS radius of r sqrt(2 * 2**-n) where flat."""
    spread = sphere.spread
    assert (np.diff(spread) < 0).all() and spread[-1] == 0
    wanted = 0.05 * np.sqrt(2 * 0.5 ** np.arange(6, 13))
    assert np.allclose(spread[6:13], wanted, rtol=0.25)


def test_near_points_share_leading_bits(sphere):
    near = np.linalg.norm(sphere.points - sphere.points[1000], axis=1).argsort()[1:6]
    far = np.linalg.norm(sphere.points + sphere.points[1000], axis=1).argmin()
    shared = lambda code: bits_of(np.array([1000 ^ code]))[0].argmax()  # noqa: E731
    assert np.median([shared(c) for c in near]) > 8 > 2 > shared(far)


def test_codes_and_bits_are_each_others_inverse():
    codes = np.array([0, 1, 32768, 65535, 12345])
    assert (
        np.array_equal(codes_of(bits_of(codes)), codes)
        and bits_of(codes)[2].tolist() == [True] + [False] * 15
    )


def test_a_code_names_its_point_and_few_sure_bits_the_middle_of_a_part(sphere):
    codes = np.random.default_rng(3).integers(0, 1 << BITS, 100)
    assert np.array_equal(sphere.located(codes, np.full(100, BITS)), sphere.points[codes])
    halves = sphere.points.reshape(2, -1, 3).mean(1)
    assert np.allclose(sphere.located(codes, np.ones(100, int)), halves[codes >> (BITS - 1)], atol=1e-6)
    assert np.allclose(sphere.located(codes, np.zeros(100, int)), sphere.points.mean(0), atol=1e-6)


def test_a_surface_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(65536, 3\).*\(10, 3\)"):
        SurfaceCodes(np.zeros((10, 3)))
