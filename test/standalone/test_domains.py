# SPDX-License-Identifier: Apache-2.0
"""Domains of tests: no two runs at once on one, and none that other nodes use."""

import os
import socket
import subprocess
import sys

import pytest

from standalone import domains

BASE = 1500 + os.getpid() % 3000  # not the ports of real domains, which this run and others may have reserved


@pytest.fixture(autouse=True)
def other_ports(monkeypatch):
    monkeypatch.setattr(domains, "_reserved", [])
    monkeypatch.setattr(domains, "BASE", BASE)
    yield
    for held in domains._reserved:
        held.close()


def test_no_domain_is_given_twice(monkeypatch):
    monkeypatch.setattr(domains, "DOMAINS", range(1, 6))
    free = []
    with pytest.raises(RuntimeError, match="ROS domains: wanted one of 1 to 5, found all in use"):
        for _ in range(6):
            free.append(domains.reserve_domain())
    assert len(set(free)) == len(free) >= 1


def test_another_process_keeps_its_domain(monkeypatch):
    monkeypatch.setattr(domains, "DOMAINS", range(7, 8))
    text = (
        f"from standalone import domains; domains.DOMAINS = range(7, 8); domains.BASE = {BASE}; "
        "print(domains.reserve_domain(), flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=-1, stdout=-1, text=True) as other:
        try:
            assert other.stdout.readline().strip() == "7"
            with pytest.raises(RuntimeError):
                domains.reserve_domain()
        finally:
            other.communicate("\n", timeout=20)
    assert domains.reserve_domain() == 7


def test_a_domain_in_which_a_node_listens_is_not_taken(monkeypatch):
    monkeypatch.setattr(domains, "DOMAINS", range(8, 9))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        node.bind(("", BASE + 250 * 8))
        with pytest.raises(RuntimeError):
            domains.reserve_domain()
    assert domains.reserve_domain() == 8
