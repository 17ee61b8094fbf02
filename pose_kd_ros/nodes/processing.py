# SPDX-License-Identifier: Apache-2.0
"""What runs while the pose node is active: newest frame in, worker thread, results out."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize  # what the tracker and messages import when first needed: no frame
import scipy.spatial.transform  # noqa: F401  waits for it
from std_msgs.msg import Header

from ..core.refine import with_axes_turned
from ..core.sensor_messages import UnusableMessage, to_seconds
from ..core.track import Tracker
from ..pipeline.estimator import Estimator
from ..pipeline.follow import DepthSource, Followed, Follower, ObjectFollower, Outcome
from ..pipeline.people import PeopleEstimator, PeopleFollower
from ..pipeline.refine import Refiner
from ..pipeline.solve import Stopwatch
from ..recordings.cdr import nanoseconds
from . import parameters
from .detect import Collection
from .health import QUIET_S, Health, status_message
from .inputs import Arrival, Inputs
from .latest import Latest, Worker
from .outputs import Outputs
from .parameters import Settings
from .regions import FORGET_S
from .transform_buffer import TransformBuffer

SAY_AGAIN_S = 5.0  # a standing problem is logged this often
STOP_S = 5.0  # longest wait for the worker to finish a frame
STUCK_S = 10.0  # after so long in one frame the node says that it is stuck


class Processing:
    """Made when the node activates, stopped when it deactivates. Only the worker thread touches the follower.

    worker.error must be looked at by the node: a worker that raised does nothing any more.
    """

    def __init__(
        self,
        node,
        estimator: Estimator | PeopleEstimator,
        outputs: Outputs,
    ):
        self._node, self._outputs = node, outputs
        self._settings = parameters.read(node)
        self._follower = make_follower(estimator, self._settings)
        for refiner in refiners(estimator).values():
            refiner.counts.clear()  # all counts begin when the node activates
        self._busy = threading.Lock()  # held while a frame is worked on
        self._since: float | None = None  # when the worker began the frame it is in, time.monotonic
        self._said: dict[str, float] = {}
        self._errors, self._error = 0, ""  # frames in a row that raised, and what the last one did
        self._silent = False
        self._tf_fault_at = 0.0  # when the last transform came that could not be used, time.monotonic
        self._last: tuple[str, float] | None = None  # frame_id and stamp of the frame processed last
        self.collection: Collection | None = None  # that ~/detect waits for
        self.health, self.latest = Health(), Latest()
        self._outputs.announce(self._settings)
        self.inputs = Inputs(node, self._settings, self.latest, self.health)
        self._frames: TransformBuffer | None = None
        try:
            if self._settings.output_frame:
                self._frames = TransformBuffer(node, self._on_tf_fault)
            self.worker = Worker(self.latest, self._work)
        except BaseException:
            self._unsubscribe()
            raise

    def _on_tf_fault(self, text: str) -> None:
        self._tf_fault_at = time.monotonic()
        self.health.warn("tf", text)

    def stop(self) -> None:
        """End subscriptions and worker, delete the markers. Raises RuntimeError if the worker is stuck."""
        self._unsubscribe()
        if not self.worker.stop(STOP_S):
            raise RuntimeError(f"the worker did not end within {STOP_S:g} s")
        self._outputs.clear()

    def _unsubscribe(self) -> None:
        self.inputs.destroy()
        if self._frames is not None:
            self._frames.destroy()

    def reset(self, why: str) -> bool:
        """Forget all tracks; False if the worker was stuck in a frame."""
        if not self._busy.acquire(timeout=STOP_S):
            return False
        try:
            self._forget(why)
        finally:
            self._busy.release()
        return True

    def silence(self, seconds: float) -> str:
        """Say why no frame may have come for so long, and, once, let go of what was seen before."""
        if not self._silent:
            self._silent = True
            self.reset("no more images")
        return self.inputs.silence(seconds)

    def stuck(self) -> str:
        """Say that one frame takes far too long: a worker that hangs does not die, and frames still come."""
        since = self._since
        seconds = 0.0 if since is None else time.monotonic() - since
        return f"stuck: one frame has been worked on for {seconds:.0f} s" if seconds > STUCK_S else ""

    def broken(self) -> str:
        """Say why nothing good will come any more: the worker is dead, or all its last frames raised."""
        if self.worker.error:
            return f"the worker died: {self.worker.error.splitlines()[0]}"
        most = self._settings.max_errors
        return f"{self._errors} frames in a row failed: {self._error}" if 0 < most <= self._errors else ""

    def _forget(self, why: str, times_too: bool = True) -> None:
        """Forget all tracks, and TF and depth unless these still hold: time has not gone back."""
        self._last = None
        self._node.get_logger().info(f"{why}: all tracks are forgotten")
        self._follower.reset()
        if self.collection is not None:
            self.collection.restart()
        if times_too and self._frames is not None:
            self._frames.clear()
        if times_too and self.inputs.depth is not None:
            self.inputs.depth.clear()
        self._outputs.clear()

    def _work(self, arrival: Arrival) -> None:
        """Process one frame. Whatever it raises is counted and logged; the next frame may be a better one."""
        with self._busy:
            self._silent, self._since = False, time.monotonic()
            try:
                self._process(arrival, 1e3 * (time.perf_counter() - arrival.at))
            except UnusableMessage as error:
                self._refuse(error.reason, str(error))
            except Exception as error:  # of OpenCV, ONNX Runtime, NumPy: no common base class
                if not self._node.context.ok():  # Ctrl-C while results were on their way
                    return
                self._errors, self._error = self._errors + 1, f"{type(error).__name__}: {error}"
                self._refuse("error", f"{self._error}\n{traceback.format_exc()}")
            else:
                self._look_around()
            finally:
                self._since = None

    def _look_around(self) -> None:
        """Search the frame, whose results are out already, if a search is due."""
        try:
            self._follower.look_around()
            self._errors = 0
        except Exception as error:
            self._errors, self._error = self._errors + 1, f"{type(error).__name__}: {error}"
            self._say("search", f"the search failed: {self._error}\n{traceback.format_exc()}")

    def _process(self, arrival: Arrival, waited_ms: float) -> None:
        watch, header = Stopwatch(), arrival.message.header
        collection, publish_tf = self.collection, self._node.get_parameter("publish_tf").value
        own_ears = 0 if self._frames is None else 1
        if collection is None and not self._outputs.watched(publish_tf, own_ears):
            self.health.skip()
            return
        self._apply(parameters.read(self._node))
        self._check_age(arrival.stamp)
        self._check_order(arrival.stamp)
        if self.inputs.depth is not None:
            self.inputs.depth.expect(nanoseconds(header.stamp))
        image, camera = self.inputs.read(arrival, self._follower.wants_camera)
        self._check_gap(header.frame_id, arrival.stamp)
        most = self._settings.max_instances
        regions = self.inputs.regions.take(arrival.stamp, self._follower.classes, most)
        self._say("regions", self.health.warning())
        watch.lap("read")
        depth = self._depth_of(header.frame_id, image)
        followed = self._follower.process(arrival.stamp, image, camera, regions, depth)
        watch.lap("process")
        followed, header = self._placed(followed, header)
        watch.lap("tf")
        self._outputs.publish(followed, header, self._settings)
        if collection is not None and isinstance(followed, Followed):
            collection.add(followed.tracks, header)
        watch.lap("publish")
        own = {"wait": waited_ms, **{stage: watch.stages_ms[stage] for stage in ("read", "tf", "publish")}}
        self._report(arrival, self._outputs.summary(followed), {**own, **followed.stages_ms})

    def _depth_of(self, frame_id: str, image: np.ndarray) -> DepthSource | None:
        """Return what asks for the depth image of the frame under way when it is needed."""
        buffer, timeout_s = self.inputs.depth, self._settings.depth_timeout
        if buffer is None:
            return None
        return lambda: buffer.take(frame_id, (image.shape[1], image.shape[0]), timeout_s)

    def _placed(self, outcome: Outcome, header: Header) -> tuple[Outcome, Header]:
        """Return the outcome with its poses in ``output_frame`` at the image's stamp, and the header of that.

        Only what is published is moved: the tracker works in the camera's frame. Raises UnusableMessage.
        """
        if self._frames is None or not isinstance(outcome, Followed):
            return outcome, header
        if time.monotonic() - self._tf_fault_at > FORGET_S:
            self.health.warn("tf", "")
        frame = self._settings.output_frame.lstrip("/")
        T = self._frames.lookup(frame, header.frame_id, header.stamp, self._settings.tf_timeout)
        tracks = [
            replace(track, pose=T @ track.pose, covariance=with_axes_turned(track.covariance, T[:3, :3]))
            for track in outcome.tracks
        ]
        return replace(outcome, tracks=tracks), Header(stamp=header.stamp, frame_id=frame)

    def _report(self, arrival: Arrival, outcome: dict, stages_ms: dict[str, float]) -> None:
        """``total`` is from the message's arrival in this process; the latency from the image's stamp."""
        stages_ms["total"] = 1e3 * (time.perf_counter() - arrival.at)
        latency_ms = 1e3 * self._age(arrival.stamp)
        self.health.done(latency_ms, stages_ms)
        self._outputs.status.publish(
            status_message(arrival.stamp, self.counts(), latency_ms, stages_ms, outcome)
        )

    def counts(self) -> dict[str, int]:
        """The counts by name: of frames, of regions, and of poses that were refined or not."""
        counts = self.health.counts(self.latest.dropped)
        for prefix, refiner in refiners(self._follower.estimator).items():
            # dict() copies at once: the worker may add a name meanwhile
            counts |= {f"{prefix}_{name}": n for name, n in dict(refiner.counts).items()}
        return counts

    def _check_age(self, stamp: float) -> None:
        """Refuse a frame that is older than ``max_age``: what it shows may have moved on."""
        age, most = self._age(stamp), self._settings.max_age
        if 0 < most < age:
            wanted = f"one at most {most:g} s old (max_age)"
            raise UnusableMessage("max_age", f"image stamp: wanted {wanted}, found one {age:.2f} s old")

    def _age(self, stamp: float) -> float:
        return to_seconds(self._node.get_clock().now().to_msg()) - stamp

    def _check_order(self, stamp: float) -> None:
        """Forget the tracks if the stamp is far back: a bag that loops. Refuse one that does not advance."""
        order = self._follower.order(stamp)
        if order == "jumped":
            self._forget("image stamps went back")
        if order == "late":
            raise UnusableMessage(
                "stamp",
                f"image stamp {stamp:.6f} s is not after the last one: frames out of order, "
                "sent twice or not stamped by their driver are not used",
            )

    def _check_gap(self, frame_id: str, stamp: float) -> None:
        """Forget the tracks if their poses are of another camera, or of so long ago that nobody knows what
        became of the objects: frames that nobody subscribed to, or that were refused, show none."""
        last_id, last = self._last or (frame_id, stamp)
        if last_id != frame_id:
            self._forget(f"images were of frame {last_id!r} and are of {frame_id!r}", times_too=False)
        elif stamp - last > max(QUIET_S, self._settings.track_ttl):
            self._forget(f"no image was used for {stamp - last:.0f} s", times_too=False)
        self._last = frame_id, stamp

    def _apply(self, settings: Settings) -> None:
        """Take over parameters that were changed while running."""
        if settings != self._settings:
            self._settings = settings
            configure_follower(self._follower, settings)
            self._outputs.announce(settings)  # the class table holds the frames' prefix and the threshold

    def _refuse(self, reason: str, text: str) -> None:
        self.health.refuse(reason, text.splitlines()[0])
        self._say(reason, f"frames are not used: {text}")

    def _say(self, reason: str, text: str) -> None:
        """Log a standing problem, if there is one, now and then, each reason by itself."""
        now = time.monotonic()
        if text and now - self._said.get(reason, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[reason] = now
            self._node.get_logger().warning(text)


def refiners(estimator: Any) -> dict[str, Refiner]:
    """What refines the poses of an estimator, by the prefix of its counts."""
    found = {"refine": "refiner", "refine_depth": "depth_refiner"}
    named = {prefix: getattr(estimator, name, None) for prefix, name in found.items()}
    return {prefix: refiner for prefix, refiner in named.items() if refiner is not None}


def make_follower(estimator: Estimator | PeopleEstimator, settings: Settings) -> Follower:
    """Return the pipeline, set up as the parameters say."""
    if isinstance(estimator, PeopleEstimator):
        follower: Follower = PeopleFollower(estimator)
    else:
        tracker = Tracker(estimator.objects, settings.track_ttl)
        follower = ObjectFollower(estimator, tracker, search=not settings.use_regions)
    configure_follower(follower, settings)
    return follower


def configure_follower(follower: Follower, settings: Settings) -> None:
    """Set what may change between two frames."""
    estimator, decode = follower.estimator, follower.estimator.bundle.manifest.decode
    follower.max_instances = settings.max_instances
    estimator.cell_score = settings.cell_threshold if settings.cell_threshold >= 0 else decode.cell_score
    if isinstance(follower, ObjectFollower):
        follower.search_period, follower.expected_count = settings.search_period, settings.expected_count
        tracker = follower.tracker
        tracker.smooth = settings.smooth
        tracker.confirm_hits = settings.confirm_hits
        tracker.confirm_frames = max(settings.confirm_hits, settings.confirm_frames)
        follower.estimator.keep_factor = settings.keep_factor
        wanted = settings.score_threshold
        follower.estimator.pose_score = wanted if wanted >= 0 else None
