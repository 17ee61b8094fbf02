# SPDX-License-Identifier: Apache-2.0
"""Domains of tests: no two runs at once on one, and none that other nodes use."""

import socket
import subprocess
import sys

import pytest

from standalone import domains


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    monkeypatch.setattr(domains, "_reserved", [])
    yield
    for held in domains._reserved:
        held.close()


def test_no_domain_is_given_twice(monkeypatch):
    monkeypatch.setattr(domains, "DOMAINS", range(90, 95))
    free = []
    with pytest.raises(RuntimeError, match="ROS domains: wanted one of 90 to 94, found all in use"):
        for _ in range(6):
            free.append(domains.reserve_domain())
    assert len(set(free)) == len(free) >= 1


def test_another_process_keeps_its_domain(monkeypatch):
    text = (
        "from standalone import domains; domains.DOMAINS = range(95, 96); "
        "print(domains.reserve_domain(), flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=-1, stdout=-1, text=True) as other:
        try:
            assert other.stdout.readline().strip() == "95"
            monkeypatch.setattr(domains, "DOMAINS", range(95, 96))
            with pytest.raises(RuntimeError):
                domains.reserve_domain()
        finally:
            other.communicate("\n", timeout=20)
    assert domains.reserve_domain() == 95


def test_a_domain_in_which_a_node_listens_is_not_taken(monkeypatch):
    monkeypatch.setattr(domains, "DOMAINS", range(96, 97))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        node.bind(("", 7400 + 250 * 96))
        with pytest.raises(RuntimeError):
            domains.reserve_domain()
    assert domains.reserve_domain() == 96
