# SPDX-License-Identifier: Apache-2.0
"""ROS domains that nobody else on this machine uses. Standard library only.

Two runs of the tests that choose the same domain hear each other's nodes. Chosen at random, of a hundred, two
of a handful of runs meet sooner than one thinks.
"""

from __future__ import annotations

import random
import socket

DOMAINS = range(1, 102)  # above them a domain's ports can meet those that the system hands out
BASE, PER_DOMAIN = 7400, 250  # DDS: a domain's ports begin at BASE + PER_DOMAIN * domain
LAST = 249  # the port of a domain's 120th participant: taken here to say that the domain is

_reserved: list[socket.socket] = []


def reserve_domain() -> int:
    """Return a domain that no process of this machine uses or has reserved, reserved until this one ends.
    Raises RuntimeError where there is none."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        first = BASE + PER_DOMAIN * domain
        taken = _bind(first + LAST)
        if taken is None:
            continue
        nodes = _bind(first)  # all participants of a domain listen there, and share it among themselves
        if nodes is not None:
            nodes.close()
            _reserved.append(taken)
            return domain
        taken.close()
    raise RuntimeError(f"ROS domains: wanted one of {DOMAINS.start} to {DOMAINS.stop - 1}, found all in use")


def _bind(port: int) -> socket.socket | None:
    """Return a socket that holds the UDP port, None if somebody else does."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.bind(("", port))
    except OSError:
        made.close()
        return None
    return made
