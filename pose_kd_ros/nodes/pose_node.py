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

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from ..pipeline.estimator import Estimator
from ..pipeline.follow import JUMP_S
from ..pipeline.people import PeopleEstimator
from . import health, parameters
from .entry import spin
from .loading import load_estimator
from .outputs import Outputs, make_outputs
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
        self._recovery, self._disabled = Recovery(), False
        parameters.declare(self)
        self.add_on_set_parameters_callback(
            lambda changes: parameters.validate_changes(changes, self._estimator is not None)
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(0.1, self._watch_worker, clock=steady)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
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

    def _begin(self) -> None:
        assert self._estimator is not None and self._outputs is not None, "configuring comes first"
        self.processing = Processing(self, self._estimator, self._outputs)
        self._disabled = False

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
        if self.processing is not None and (reason := self.processing.broken()):
            self.get_logger().fatal(self.processing.worker.error or reason)
            if self.trigger_deactivate() == SUCCESS:
                self.trigger_cleanup()
            self._fault = reason
            self._try_again_later()
        elif self._recovery.due(time.monotonic()) and self._is("unconfigured"):
            if self.trigger_configure() == SUCCESS and self.trigger_activate() != SUCCESS:
                self.trigger_cleanup()
            if self._is("unconfigured"):
                self._try_again_later()
        elif self.processing is not None and self.processing.health.processed:
            self._recovery.succeeded()

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
            response.success = True
            response.message = "enabled already" if request.data else "disabled already"
        else:
            action = self._begin if request.data else self._end
            response.success = self._attempt("enable" if request.data else "disable", action) == SUCCESS
            self._disabled = self.processing is None
            response.message = "enabled" if request.data else "disabled: images are not subscribed to"
            response.message = response.message if response.success else self._fault
        return response

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
            values.update(active.health.counts(active.latest.dropped), **active.health.percentiles())
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
