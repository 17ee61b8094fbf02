# SPDX-License-Identifier: Apache-2.0
"""Camera frames in, 6D object poses out: detections, TF, markers, status. Of a bundle for people: keypoints.

    ros2 run pose_kd_ros pose_node --ros-args -p bundle:=cube -r image:=/camera/image_raw -r
    camera_info:=/camera/camera_info

A lifecycle node. It loads, checks and warms the network in configure and subscribes in activate; with
``autostart`` (the default) it takes both steps by itself. The subscription's callback only puts the
newest frame into a slot; a worker thread does the rest. A frame that raises is counted and logged; after some
in a row the node says why, goes to unconfigured and configures again, at growing intervals.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from ..pipeline.estimator import Estimator
from ..pipeline.follow import JUMP_S
from ..pipeline.people import PeopleEstimator
from . import health, parameters
from .detect import Collection
from .encode_messages import to_detections
from .entry import spin
from .loading import load_estimator
from .outputs import Outputs, PoseOutputs, make_outputs
from .processing import Processing
from .recovery import Recovery

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class PoseNode(LifecycleNode):
    """See the module's text; ``processing`` is what runs while the node is active."""

    def __init__(self, **kwargs):
        super().__init__("pose_node", **kwargs)
        self._estimator: Estimator | PeopleEstimator | None = None
        self._outputs: Outputs | None = None
        self.processing: Processing | None = None
        self._fault = ""  # why the node is not in the state that was asked of it
        self._recovery = Recovery()
        self._disabled = False  # what ~/enable asks for; a disabled node still runs while ~/detect waits
        self._collection: Collection | None = None  # that ~/detect waits for, and what wakes it
        self._collected: Future | None = None
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(0.1, self._watch_worker, clock=steady)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # In the node's own group, a request that waits for frames would hold their subscriptions up.
        self.create_service(Trigger, "~/detect", self._on_detect, callback_group=ReentrantCallbackGroup())
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-int(JUMP_S * 1e9)))
        self._jump = self.get_clock().create_jump_callback(back, post_callback=self._on_jump)

    def start(self) -> None:
        """Configure and activate, if ``autostart`` says so; the log and /diagnostics tell a failure."""
        if self.get_parameter("autostart").value and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Load the bundle, replay its golden sample, warm the network; of a locator in it, too."""
        self._recovery.cancel()
        result = self._attempt("configure", self._load)
        return super().on_configure(state) if result == SUCCESS else result

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Subscribe and begin to work."""
        super().on_activate(state)  # lets the publishers publish
        self._disabled = False
        result = self._attempt("activate", self._begin)
        if result != SUCCESS:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        """Unsubscribe and end the worker; one that had died makes this the error transition."""
        if self.processing is not None and self.processing.worker.error:
            return ERROR
        result = self._attempt("deactivate", self._end)
        return super().on_deactivate(state) if result == SUCCESS else ERROR

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        """Drop the network; the bundle parameter may be changed now."""
        return self._attempt("clean up", self._unload)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        """As cleanup, from any state."""
        self._recovery.cancel()
        return self._attempt("shut down", self._unload)

    def on_error(self, state) -> TransitionCallbackReturn:
        """Take everything down; afterwards the node is unconfigured and can be configured again."""
        return self._attempt("recover", self._unload)

    def destroy_node(self) -> None:
        """End the worker and the state machine too: each holds the node, and with it a DDS participant."""
        try:
            self._unload()
        finally:
            super().destroy_node()
            self._state_machine.destroy_when_not_in_use()  # LifecycleNode leaves that to the collector

    def _attempt(self, name: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        """rclpy swallows what a transition raises, so log the reason here and keep it for /diagnostics."""
        try:
            action()
        except Exception as error:
            self._fault = f"cannot {name}: {error}"
            # A refusal is a ValueError whose text says all.
            detail = "" if isinstance(error, ValueError) else "\n" + traceback.format_exc()
            self.get_logger().error(self._fault + detail)
            return FAILURE
        if name in ("configure", "activate", "enable"):
            self._fault = ""
        return SUCCESS

    def _load(self) -> None:
        estimator = load_estimator(parameters.read(self))
        self._estimator, self._outputs = estimator, make_outputs(self, estimator)
        names = ", ".join(model.name for model in estimator.bundle.objects) or "people"
        self.get_logger().info(
            f"bundle {estimator.bundle.manifest.name!r} ({names}): files verified, golden sample replayed"
        )

    def _on_parameters(self, changes) -> SetParametersResult:
        """Validate changed parameters; another bundle must run in the old one's place before it counts."""
        result = parameters.validate_changes(changes, self._estimator is not None)
        bundles = [change.value for change in changes if change.name == "bundle"]
        if not result.successful or self._estimator is None or not bundles:
            return result
        wanted = {change.name: change.value for change in changes if change.name in parameters.DESCRIPTIONS}
        try:
            self._swap(load_estimator(replace(parameters.read(self), **wanted)))
        except Exception as error:  # the old bundle is at work again, or `_watch_worker` brings it back
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            if self.processing is None and self._is("active") and not self._disabled:
                self._fault = reason
            return SetParametersResult(successful=False, reason=reason)
        self.get_logger().info(f"bundle {self._estimator.bundle.manifest.name!r} is in the old one's place")
        return result

    def _swap(self, estimator: Estimator | PeopleEstimator) -> None:
        """Run another estimator from the next frame on; on failure the old one."""
        if isinstance(estimator, PeopleEstimator) != isinstance(self._estimator, PeopleEstimator):
            kinds = "poses of objects", "keypoints of people"
            wanted, found = kinds[:: -1 if isinstance(self._estimator, PeopleEstimator) else 1]
            raise ValueError(f"bundle: wanted one for {wanted} while configured, found one for {found}")
        before, running = self._estimator, self.processing is not None
        assert before is not None, "configuring comes first"
        self._end()
        try:
            self._take(estimator, running)
        except Exception:
            self._take(before, running)
            raise

    def _take(self, estimator: Estimator | PeopleEstimator, running: bool) -> None:
        assert self._outputs is not None, "configuring comes first"
        self._estimator = estimator
        self._outputs.take(estimator)
        if running:
            self._begin()

    def _begin(self) -> None:
        assert self._estimator is not None and self._outputs is not None, "configuring comes first"
        self.processing = Processing(self, self._estimator, self._outputs)

    def _end(self) -> None:
        processing, self.processing = self.processing, None
        if processing is not None:
            processing.stop()

    def _unload(self) -> None:
        try:
            self._end()
        finally:
            outputs, self._outputs, self._estimator = self._outputs, None, None
            if outputs is not None:
                outputs.destroy()

    def _watch_worker(self) -> None:
        """Take the node to unconfigured if no frame can be processed any more; configure it again later."""
        self._finish_collection()
        if reason := self._broken():
            self.get_logger().fatal((self.processing and self.processing.worker.error) or reason)
            if self.trigger_deactivate() == SUCCESS:
                self.trigger_cleanup()
            self._fault = reason
            self._try_again_later()
        elif self._recovery.due(time.monotonic()) and self._is("unconfigured"):
            disabled = self._disabled  # it failed while ~/detect had woken it
            if self.trigger_configure() == SUCCESS and self.trigger_activate() != SUCCESS:
                self.trigger_cleanup()
            if disabled and self._is("active"):
                self._attempt("disable", self._end)
                self._disabled = True
            if self._is("unconfigured"):
                self._try_again_later()
        elif self.processing is not None and self.processing.health.processed:
            self._recovery.succeeded()

    def _broken(self) -> str:
        """Say why the node cannot do what its state promises."""
        if self.processing is not None:
            return self.processing.broken()
        lost = self._is("active") and not self._disabled
        return f"nothing runs any more: {self._fault or 'the reason is unknown'}" if lost else ""

    def _try_again_later(self) -> None:
        if self.get_parameter("max_errors").value:
            delay = self._recovery.plan(time.monotonic())
            self._fault += f"; configuring again in {delay:g} s"
            self.get_logger().warning(self._fault)

    def _is(self, state: str) -> bool:
        return self._state_machine.current_state[1] == state

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Stop all work while the node stays active, or begin again. Disabled, it subscribes to no images."""
        if not self._is("active"):
            response.message = f"wanted an active node, found {self._state_machine.current_state[1]}"
        elif request.data == (self.processing is not None):
            response.success, self._disabled = True, not request.data
            response.message = "enabled already" if request.data else "disabled already"
        else:
            action = self._begin if request.data else self._end
            response.success = self._attempt("enable" if request.data else "disable", action) == SUCCESS
            self._disabled = self.processing is None
            response.message = "enabled" if request.data else "disabled: images are not subscribed to"
            response.message = response.message if response.success else self._fault
        return response

    async def _on_detect(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Average the next frames and publish what they show on ~/detected; wake a disabled node for that."""
        if not self._is("active"):  # its parameters may be unusable: that is why
            response.message = self._why_not({}, [])
            return response
        settings, models = parameters.read(self), getattr(self._estimator, "objects", {})
        classes = [name.strip() for name in settings.detect_classes.split(",") if name.strip()]
        unknown = sorted(set(classes) - {model.name for model in models.values()})
        if not models or unknown or self._collection is not None:
            response.message = self._why_not(models, unknown)
            return response
        collection = Collection(settings.detect_frames, settings.detect_timeout, classes, models)
        if self.processing is None and self._attempt("enable", self._begin) != SUCCESS:
            response.message = self._fault
            return response
        assert self.processing is not None, "active and enabled"
        self._collection = self.processing.collection = collection
        self._collected = Future(executor=self.executor)
        await self._collected
        self._collection, problem = None, ""
        if self.processing is not None:
            self.processing.collection, problem = None, self.processing.health.problem
            if self._disabled:  # and nobody has enabled or activated the node in the meantime
                self._attempt("disable", self._end)
        found = collection.outcome()
        response.success = collection.frames >= collection.wanted and bool(found)
        response.message = collection.in_words(found) + (f" ({problem})" if problem else "")
        if isinstance(self._outputs, PoseOutputs) and collection.frames >= collection.wanted:
            self._outputs.detected.publish(to_detections(found, models, collection.header))
        return response

    def _why_not(self, models, unknown: list[str]) -> str:
        if not self._is("active"):
            return f"wanted an active node, found {self._state_machine.current_state[1]}"
        if not models:
            return "wanted a bundle of objects, found one for people, who have no poses"
        if unknown:
            names = ", ".join(model.name for model in models.values())
            return f"detect_classes: wanted some of {names}, found {', '.join(unknown)}"
        return "wanted one request at a time, found one that is not answered yet"

    def _finish_collection(self) -> None:
        """Wake ~/detect once its frames have come, its time is up, or nothing runs any more."""
        collection, answer = self._collection, self._collected
        if collection is not None and answer is not None and not answer.done():
            if self.processing is None or self.processing.collection is not collection:
                collection.broken_off = True  # what runs now, if anything does, adds no frames to it
            if collection.over:
                answer.set_result(None)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.processing is not None and self.processing.reset("asked to reset")
        response.message = (
            "tracks forgotten" if response.success else "not active, disabled, or stuck in a frame"
        )
        return response

    def _on_jump(self, jump) -> None:
        if self.processing is not None:
            self.processing.reset("the clock jumped back or changed")

    def _report(self) -> None:
        """Publish /diagnostics once per second, whatever the state."""
        active, estimator = self.processing, self._estimator
        values: dict[str, str | int] = {"bundle": estimator.bundle.manifest.name if estimator else "none"}
        quiet = problem = warning = ""
        if active is not None:
            values.update(active.counts(), **active.health.percentiles())
            problem, seconds = active.stuck() or active.health.problem, active.health.quiet_s()
            quiet = active.silence(seconds) if seconds > health.QUIET_S else ""
            warning = active.health.warning()
        on = active is not None or (self._disabled and self._is("active"))
        verdict = health.diagnose(on, self._fault, problem, quiet, warning)
        if on and active is None and not self._fault:
            verdict = verdict[0], "disabled by ~/enable"
        if quiet:
            self.get_logger().warning(quiet, throttle_duration_sec=10.0)
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(health.diagnostic_array(stamp, name, verdict, values))


def started() -> PoseNode:
    """A node that takes its first steps by itself, where ``autostart`` says so."""
    node = PoseNode()
    node.start()
    return node


def main(args=None) -> int:
    """Entry point. Returns 1 where a parameter's type or value is refused at start."""
    return spin(started, "pose_node", args)


if __name__ == "__main__":
    sys.exit(main())
