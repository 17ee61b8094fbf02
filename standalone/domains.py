# SPDX-License-Identifier: Apache-2.0
"""ROS domains that no other process on this machine uses. Standard library only.

Nodes of two test runs in the same domain receive each other's messages. If each run chose one of a hundred
domains at random, a few parallel runs would often choose the same.
"""

from __future__ import annotations

import random
import socket

DOMAINS = range(1, 102)  # above 101, a domain's ports can collide with the system's ephemeral ports
BASE, PER_DOMAIN = 7400, 250  # DDS: a domain's ports begin at BASE + PER_DOMAIN * domain
LAST = 249  # offset of the port of a domain's 120th participant; binding it here reserves the domain

_reserved: list[socket.socket] = []


def reserve_domain() -> int:
    """Return a domain that no process of this machine uses or has reserved; reserve it until this process
    ends. Raises RuntimeError if there is none."""
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        first = BASE + PER_DOMAIN * domain
        taken = _bind(first + LAST)
        if taken is None:
            continue
        nodes = _bind(first)  # the port that all participants of a domain share
        if nodes is not None:
            nodes.close()
            _reserved.append(taken)
            return domain
        taken.close()
    raise RuntimeError(f"ROS domains: wanted one of {DOMAINS.start} to {DOMAINS.stop - 1}, found all in use")


def _bind(port: int) -> socket.socket | None:
    """Return a socket bound to the UDP port; None if another process holds it."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.bind(("", port))
    except OSError:
        made.close()
        return None
    return made
