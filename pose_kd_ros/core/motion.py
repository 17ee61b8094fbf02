# SPDX-License-Identifier: Apache-2.0
"""Where an object is and how it moves: a Kalman filter of measured poses.

Between measurements the velocity is an Ornstein-Uhlenbeck process: it fades, and is disturbed by what the
hand that holds the object does. So an object that nobody sees is expected to slow down, and how far it may be
by then depends on the time alone, not on the number of steps. Small changes of a pose are those of
``core.refine``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .metrics import error_vector
from .refine import moved

SPEED = 2.0  # diameters per second: standard deviation of an object's speed along each axis
TURN = 2.0  # radians per second, about each axis
MEMORY = 0.2  # seconds in which a velocity fades to 37 %
LONGEST = 1.0  # seconds: in a longer gap nothing becomes less certain
ALIKE = 7.0  # times: consecutive errors correlate by 0.75, so that seven measurements are worth one
SURPRISING = 12.6  # squared Mahalanobis distance that 95 % of six-dimensional errors stay below


@dataclass(frozen=True)
class Motion:
    """pose: ``T_camera_object`` (4, 4). velocity: (6,), m/s of the origin and rad/s, along and about the
    camera's axes. covariance: (12, 12), of the pose's small change and of the velocity."""

    pose: np.ndarray
    velocity: np.ndarray
    covariance: np.ndarray


def standing(pose: ArrayLike, covariance: np.ndarray, diameter: float) -> Motion:
    """Return the motion of an object that was measured once, with a covariance (6, 6)."""
    spread = np.zeros((12, 12))
    spread[:6, :6] = covariance
    spread[6:, 6:] = np.diag(_rates(diameter) ** 2)
    return Motion(np.asarray(pose, float), np.zeros(6), spread)


def carried(motion: Motion, seconds: float, diameter: float) -> Motion:
    """Return the motion after so many ``seconds`` without a measurement.

    Convention: after 0.2 s at 1 m/s an object is 0.126 m farther and has 0.37 m/s.
    """
    fade = np.exp(-seconds / MEMORY)
    way = MEMORY * (1 - fade)
    step = np.kron([[1, way], [0, fade]], np.eye(6))
    between = MEMORY * (1 - fade) ** 2
    along = 2 * MEMORY * (seconds - 2 * way + MEMORY / 2 * (1 - fade**2))
    disturbed = np.kron([[along, between], [between, 1 - fade**2]], np.diag(_rates(diameter) ** 2))
    return Motion(
        moved(motion.pose, way * motion.velocity),
        fade * motion.velocity,
        step @ motion.covariance @ step.T + disturbed,
    )


def corrected(motion: Motion, measured: np.ndarray, covariance: ArrayLike) -> Motion:
    """Return the motion after a measured pose (4, 4) of this time, with the covariance (6, 6) of its error.

    A measurement that surprises, as one of an object that starts to race does, widens what was expected by as
    much, so that it counts for more.
    """
    change, noise = error_vector(motion.pose, measured), ALIKE * np.asarray(covariance, float)
    expected = motion.covariance
    surprise = float(change @ np.linalg.solve(expected[:6, :6] + noise, change))
    expected = expected * max(1.0, surprise / SURPRISING)
    gain = np.linalg.solve(expected[:6, :6] + noise, expected[:6]).T
    step = gain @ change
    remaining = expected - gain @ expected[:6]
    return Motion(moved(motion.pose, step[:6]), motion.velocity + step[6:], (remaining + remaining.T) / 2)


def _rates(diameter: float) -> np.ndarray:
    return np.repeat([SPEED * diameter, TURN], 3)
