# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared with type, range and description, and read into one checked value.

``ros2 param describe /pose_node <name>`` shows what stands here. Those in FROZEN take effect when the node
configures and cannot be changed while it is configured; all others can be changed at any time. Of a changed
``bundle`` the node loads the new one before it lets go of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult

from ..pipeline.estimator import KEEP_FACTOR
from ..pipeline.refine import KINDS

FROZEN = (
    "provider",
    "threads",
    "image_transport",
    "reliability",
    "object_scale",
    "refine",
    "object_scales",
    "track_ttl",
    "use_regions",
    "use_depth",
    "output_frame",
)
CHOICES = {
    "image_transport": ("raw", "compressed"),
    "reliability": ("best_effort", "reliable"),
    "refine": KINDS,
    "provider": ("cpu", "cuda", "tensorrt", "openvino"),
}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class UnusableParameter(ValueError):
    """A parameter's value cannot be used; the text names the parameter, the value and what was wanted."""


@dataclass(frozen=True)
class Settings:
    """The parameters' values; the defaults are the parameters' own. -1 for a threshold: the bundle's."""

    autostart: bool = True
    bundle: str = ""
    provider: str = "cpu"
    threads: int = 0
    image_transport: str = "raw"
    reliability: str = "best_effort"
    use_regions: bool = False
    score_threshold: float = -1.0
    cell_threshold: float = -1.0
    max_instances: int = 10
    max_age: float = 0.0
    max_errors: int = 5
    detect_frames: int = 5
    detect_timeout: float = 5.0
    detect_classes: str = ""
    search_period: float = 1.0
    expected_count: int = 0
    track_ttl: float = 0.5
    keep_factor: float = KEEP_FACTOR
    confirm_hits: int = 2
    confirm_frames: int = 3
    smooth: bool = True
    object_scale: float = 1.0
    refine: str = "auto"
    use_depth: bool = False
    depth_timeout: float = 0.05
    object_scales: str = ""
    publish_tf: bool = True
    output_frame: str = ""
    tf_timeout: float = 0.05
    tf_prefix: str = ""
    publish_predicted: bool = False

    def __post_init__(self):
        for name, wanted in CHOICES.items():
            if getattr(self, name) not in wanted:
                raise UnusableParameter(
                    f"{name}: wanted one of {', '.join(wanted)}, found {getattr(self, name)!r}"
                )


DESCRIPTIONS = {
    "autostart": "Configure and activate at start. False: leave that to a lifecycle manager.",
    "bundle": "Folder of the bundle to run, or the name of one that is installed with this package.",
    "provider": "ONNX Runtime's execution provider: cpu, cuda, tensorrt or openvino. No silent fall-back.",
    "threads": "Threads of one inference; 0 = as many as cores.",
    "image_transport": "raw: Image on the topic image. compressed: CompressedImage on image/compressed.",
    "reliability": "Reliability asked of the image publisher: best_effort (matches any) or reliable.",
    "use_regions": "Look for new objects in the boxes that arrive on regions, instead of in the whole frame.",
    "score_threshold": "Poses under this score are dropped; -1 = the bundle's own.",
    "cell_threshold": "Cells, pixels or keypoints count above this score; -1 = the bundle's own.",
    "max_instances": "At most this many objects are tracked, the best first; all classes together.",
    "max_age": "Frames whose stamps are older than this, in seconds, are refused; 0 = never.",
    "max_errors": "After so many frames in a row that raise an error the node configures again; 0 = never.",
    "detect_frames": "So many frames ~/detect averages.",
    "detect_timeout": "Seconds that ~/detect waits for them.",
    "detect_classes": "Class names that ~/detect looks for, separated by commas; empty = all.",
    "search_period": "Seconds between searches of the whole frame while all is tracked; 0 = every frame.",
    "expected_count": "So many objects are there: no search while all are measured; 0 = unknown.",
    "keep_factor": "Share of score_threshold that suffices for an object that is tracked; 1 = all of it.",
    "confirm_hits": "A new object gets its TF frame when it was seen so often in confirm_frames frames.",
    "confirm_frames": "See confirm_hits; of a new object that was not seen so often the track is given up.",
    "smooth": "Publish poses of a filter that follows each object's motion; false: poses as measured.",
    "track_ttl": "Seconds that an object may go unseen and still keep its id.",
    "refine": "edges: move poses onto the image's edges; auto: where the bundle has a mesh; none.",
    "use_depth": "After that, move poses onto the depth images, aligned to image, that arrive on depth.",
    "depth_timeout": "Seconds that a frame waits for its depth image before it goes on without.",
    "object_scale": "The real object's size over the bundle's: 1.0119 for a cube of 85 mm, bundle of 84 mm.",
    "object_scales": "Scales of single classes in place of object_scale: cube=1.0119, can=0.98.",
    "publish_tf": "Publish the objects' frames on /tf.",
    "output_frame": "Publish poses in this frame, where it was at the image's stamp; empty = the image's.",
    "tf_timeout": "Seconds that a frame waits for the transform to output_frame before it is refused.",
    "tf_prefix": "Put before the class name to make the child frame: <prefix><class>[_<n>].",
    "publish_predicted": "Also publish poses of tracks that were not measured in this frame, only predicted.",
}
RANGES = {
    "threads": (0, 256),
    "score_threshold": (-1.0, 1.0),
    "cell_threshold": (-1.0, 1.0),
    "max_instances": (1, 100),
    "max_age": (0.0, 3600.0),
    "max_errors": (0, 1000),
    "detect_frames": (1, 100),
    "detect_timeout": (0.1, 60.0),
    "search_period": (0.0, 3600.0),
    "expected_count": (0, 100),
    "track_ttl": (0.0, 60.0),
    "keep_factor": (0.0, 1.0),
    "confirm_hits": (1, 100),
    "confirm_frames": (1, 100),
    "object_scale": (0.001, 1000.0),
    "tf_timeout": (0.0, 1.0),
    "depth_timeout": (0.0, 1.0),
}


def scales_by_id(settings: Settings, names: Mapping[int, str]) -> dict[int, float]:
    """Return the scale of each object. names: of the bundle's classes by id. Raises UnusableParameter.

    Convention: object_scale 1 and object_scales "cube=1.0119, can=0.98" make the cube larger, the can smaller
    and leave all others as they are.
    """
    scales, ids = dict.fromkeys(names, settings.object_scale), {name: key for key, name in names.items()}
    low, high = RANGES["object_scale"]
    for part in filter(None, map(str.strip, settings.object_scales.split(","))):
        name, _, value = (one.strip() for one in part.rpartition("="))
        try:
            scale = float(value)
        except ValueError:
            scale = 0.0
        if name not in ids or not low <= scale <= high:
            wanted = f"class=scale, of {', '.join(ids)}, {low:g} to {high:g}"
            raise UnusableParameter(f"object_scales: wanted {wanted}, found {part!r}")
        scales[ids[name]] = scale
    return scales


def declare(node) -> None:
    """Declare every field of Settings on a node; ``autostart`` is read-only: it is looked at once."""
    for field in fields(Settings):
        descriptor = ParameterDescriptor(
            name=field.name, description=DESCRIPTIONS[field.name], read_only=field.name == "autostart"
        )
        if field.name in CHOICES:
            descriptor.additional_constraints = "one of " + ", ".join(CHOICES[field.name])
        if field.name in RANGES:
            low, high = RANGES[field.name]
            if isinstance(low, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        node.declare_parameter(field.name, field.default, descriptor)


def read(node) -> Settings:
    """Return the node's parameters as Settings."""
    return Settings(**{field.name: node.get_parameter(field.name).value for field in fields(Settings)})


def validate_changes(changes, configured: bool) -> SetParametersResult:
    """Accept or refuse changed parameters (rclpy Parameters), with a reason that says what to do instead."""
    for change in changes:
        if change.name in CHOICES and change.value not in CHOICES[change.name]:
            wanted = ", ".join(CHOICES[change.name])
            return SetParametersResult(
                successful=False, reason=f"{change.name}: wanted {wanted}, found {change.value!r}"
            )
        if configured and change.name in FROZEN:
            return SetParametersResult(
                successful=False,
                reason=f"{change.name} takes effect when the node configures: "
                "deactivate and clean it up, set the parameter, configure and activate",
            )
    return SetParametersResult(successful=True)
