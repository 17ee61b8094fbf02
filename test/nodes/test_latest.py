# SPDX-License-Identifier: Apache-2.0
import threading
import time

from pose_kd_ros.nodes.latest import Latest, Worker


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_the_newest_item_replaces_the_one_that_waits_and_the_loss_is_counted():
    latest = Latest()
    for item in range(5):
        latest.put(item)
    assert latest.take(0.1) == 4 and latest.dropped == 4
    assert latest.take(0.01) is None


def test_every_item_is_worked_on_or_counted():
    latest, done = Latest(), []
    worker = Worker(latest, lambda item: (time.sleep(0.002), done.append(item)))
    for item in range(1, 301):
        latest.put(item)
        time.sleep(0.0005)
    assert wait_for(lambda: done and done[-1] == 300)
    assert len(done) + latest.dropped == 300 and latest.dropped > 0
    assert done == sorted(done)
    assert worker.stop() and worker.error is None


def test_a_worker_that_raises_ends_and_says_why():
    def fail(item):
        raise RuntimeError(f"no use for {item}")

    latest = Latest()
    worker = Worker(latest, fail)
    latest.put("this")
    assert wait_for(lambda: worker.error)
    assert "RuntimeError: no use for this" in worker.error and "test_latest" in worker.error
    assert worker.stop()


def test_a_worker_that_is_stuck_is_told_of():
    latest, release = Latest(), threading.Event()
    worker = Worker(latest, lambda item: release.wait(10))
    latest.put("frame")
    time.sleep(0.05)
    assert not worker.stop(timeout_s=0.1)
    release.set()
    assert worker.stop()
