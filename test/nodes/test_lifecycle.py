# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("onnx")
from disc_bundle import write_disc_bundle
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter
from rig import GREEN, RED, Rig, picture

from pose_kd_ros.bundle.manifest import mesh_file
from pose_kd_ros.bundle.store import open_bundle, write_bundle
from pose_kd_ros.core.mesh import Mesh
from pose_kd_ros.nodes.parameters import DESCRIPTIONS, FROZEN, RANGES
from pose_kd_ros.nodes.pose_node import PoseNode

BALL = picture((150, 110, 30, RED))


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return str(write_disc_bundle(tmp_path_factory.mktemp("bundles") / "discs"))


def test_the_node_goes_round_its_transitions_twice(ros, discs):
    rig = Rig(ros, autostart=False, bundle=discs, threads=1)
    client = ros.node("manager").create_client(ChangeState, "/pose_node/change_state")
    assert ros.until(client.service_is_ready, 10)

    def change(name):
        request = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{name}")))
        answer = client.call_async(request)
        assert ros.until(answer.done, 20)
        return answer.result().success

    assert rig.state == "unconfigured" and not rig.pose_node.get_subscriptions_info_by_topic("/image")
    for _ in range(2):
        assert change("CONFIGURE") and rig.state == "inactive"
        assert not rig.pose_node.get_subscriptions_info_by_topic("/image")
        assert change("ACTIVATE") and rig.state == "active"
        rig.connect()
        assert rig.show(BALL)["tracks"][0]["class"] == "red_ball"
        assert change("DEACTIVATE") and rig.state == "inactive"
        assert not rig.pose_node.get_subscriptions_info_by_topic("/image")
        assert change("CLEANUP") and rig.state == "unconfigured"
        assert not rig.pose_node.get_publishers_info_by_topic("/tf")
    assert change("UNCONFIGURED_SHUTDOWN") and rig.state == "finalized"


def test_shutdown_from_active_takes_everything_down(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    worker = rig.pose_node.processing.worker
    rig.pose_node.trigger_shutdown()
    assert rig.state == "finalized" and not worker._thread.is_alive()
    assert not rig.pose_node.get_subscriptions_info_by_topic("/image")


def test_a_node_that_is_destroyed_while_active_ends_its_worker(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1)
    worker = rig.pose_node.processing.worker
    ros.remove(rig.pose_node)
    assert not worker._thread.is_alive()


def test_a_destroyed_node_takes_its_participant_along(ros, discs):
    """Else its threads receive until the collector comes by, on whatever thread, in whatever test."""
    node = PoseNode(parameter_overrides=[Parameter("bundle", value=discs), Parameter("threads", value=1)])
    ros.add(node)
    node.start()
    assert ros.receivers()
    ros.remove(node)
    assert ros.receivers() == []


def test_every_parameter_is_described_and_has_its_range(ros):
    rig = Rig(ros, autostart=False, camera=False)
    client = ros.node("reader").create_client(DescribeParameters, "/pose_node/describe_parameters")
    assert ros.until(client.service_is_ready, 10)
    answer = client.call_async(DescribeParameters.Request(names=sorted(DESCRIPTIONS)))
    assert ros.until(answer.done, 10)
    described = {d.name: d for d in answer.result().descriptors}
    assert set(described) == set(DESCRIPTIONS)
    assert all(d.description for d in described.values())
    for name, (low, high) in RANGES.items():
        limits = (described[name].floating_point_range or described[name].integer_range)[0]
        assert (limits.from_value, limits.to_value) == (low, high)
    assert described["autostart"].read_only
    assert rig.state == "unconfigured"


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", -1), ("score_threshold", 1.5), ("max_instances", 0), ("track_ttl", float("nan"))],
)
def test_values_out_of_range_are_refused_at_start_and_later(ros, name, value):
    with pytest.raises(InvalidParameterValueException, match=name):
        PoseNode(parameter_overrides=[Parameter(name, value=value)])
    rig = Rig(ros, autostart=False, camera=False)
    assert not rig.pose_node.set_parameters([Parameter(name, value=value)])[0].successful


@pytest.mark.parametrize("broken", ["a subscription", "the worker"])
def test_an_activation_that_fails_leaves_nothing_running(ros, discs, monkeypatch, broken):
    def fail(*_, **__):
        raise RuntimeError("no more threads")

    rig = Rig(ros, autostart=False, bundle=discs, threads=1)
    rig.pose_node.trigger_configure()
    with monkeypatch.context() as patch:
        if broken == "the worker":
            patch.setattr("pose_kd_ros.nodes.processing.Worker", fail)
        else:
            create = rig.pose_node.create_subscription
            patch.setattr(
                rig.pose_node,
                "create_subscription",
                lambda kind, topic, *a, **k: (create if topic == "image" else fail)(kind, topic, *a, **k),
            )
        rig.pose_node.trigger_activate()
    assert rig.state == "inactive" and "no more threads" in rig.diagnosis()[1]
    assert not rig.pose_node.get_subscriptions_info_by_topic("/image")
    assert not rig.pose_node._outputs.detections.is_activated
    rig.pose_node.trigger_activate()
    assert rig.connect().show(BALL)["tracks"]


def test_values_of_another_type_are_refused(ros):
    with pytest.raises(InvalidParameterTypeException, match="threads"):
        PoseNode(parameter_overrides=[Parameter("threads", value="two")])


@pytest.mark.parametrize("name", ["image_transport", "reliability", "provider", "refine"])
def test_a_choice_that_does_not_exist_is_refused_at_configure_and_later(ros, discs, name):
    rig = Rig(ros, bundle=discs, **{name: "magic"})
    assert rig.state == "unconfigured" and f"{name}: wanted one of" in rig.diagnosis()[1]
    result = rig.pose_node.set_parameters([Parameter(name, value="other magic")])[0]
    assert not result.successful and "wanted" in result.reason


def test_a_provider_that_is_not_there_is_refused_and_named(ros, discs):
    rig = Rig(ros, bundle=discs, provider="openvino", camera=False)
    assert rig.state == "unconfigured" and "no provider ['OpenVINOExecutionProvider']" in rig.diagnosis()[1]


def test_parameters_that_need_a_configure_are_refused_while_configured(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, camera=False)
    changes = {
        "threads": 2,
        "refine": "edges",
        "object_scale": 2.0,
        "output_frame": "base",
        "track_ttl": 1.0,
        "use_regions": True,
    }
    for name, value in changes.items():
        result = rig.pose_node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful and f"{name} takes effect when the node configures" in result.reason
    assert set(changes) < set(FROZEN)


def test_thresholds_names_and_tf_can_be_changed_while_it_runs(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, confirm_hits=1).connect()
    assert rig.show(BALL)["tracks"]
    rig.pose_node.set_parameters(
        [Parameter("tf_prefix", value="seen_"), Parameter("publish_predicted", value=True)]
    )
    rig.show(BALL)
    assert rig.tf[-1].transforms[0].child_frame_id == "seen_red_ball"
    assert json.loads(rig.objects[-1].data)["objects"][0]["frame"] == "seen_red_ball"
    count = len(rig.tf)
    assert rig.show(picture())["tracks"][0]["state"] == "predicted"
    assert len(rig.tf) == count + 1
    rig.pose_node.set_parameters(
        [
            Parameter("publish_tf", value=False),
            Parameter("score_threshold", value=0.99),
            Parameter("keep_factor", value=1.0),
        ]
    )
    assert rig.show(BALL)["tracks"][0]["state"] == "predicted"
    assert len(rig.tf) == count + 1
    assert rig.labels[-1].threshold == pytest.approx(0.99)


def test_an_object_of_another_size(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, object_scale=2.0).connect()
    rig.show(BALL)
    detection = rig.detections[-1].detections[0]
    assert detection.bbox.size.x == pytest.approx(0.2)
    assert detection.results[0].pose.pose.position.z == pytest.approx(2 * 300 * 0.05 / 30, rel=0.05)


def test_refinement_wants_a_mesh_in_the_bundle_and_counts_what_it_refuses(ros, discs, tmp_path):
    rig = Rig(ros, bundle=discs, refine="edges", camera=False)
    assert rig.state == "unconfigured" and "refine: wanted a mesh" in rig.diagnosis()[1]
    bundle, files = open_bundle(discs), {}
    for model in bundle.objects:
        box = Mesh.of_box(model)
        files[mesh_file(model.id)] = tmp_path / mesh_file(model.id)
        arrays = {"vertices": box.vertices, "triangles": box.triangles, "sharp": box.sharp}
        np.savez(files[mesh_file(model.id)], **arrays)
    files |= {name: bundle.folder / name for name in bundle.manifest.files}
    manifest = dataclasses.replace(bundle.manifest, files=dict.fromkeys(files, ""))
    meshed = write_bundle(tmp_path / "meshed", manifest, files)
    rig = Rig(ros, bundle=str(meshed.folder), refine="edges", threads=1).connect()
    counts = rig.show(BALL)
    # A ball has no box's edges.
    assert counts["refine_few_agree"] == 1 and "refine_refined" not in counts


def test_one_class_of_another_size(ros, discs):
    rig = Rig(ros, bundle=discs, threads=1, object_scale=0.5, object_scales="red_ball = 2.0").connect()
    rig.show(picture((150, 110, 30, RED), (250, 180, 20, GREEN)))
    sizes = {d.results[0].hypothesis.class_id: d.bbox.size.x for d in rig.detections[-1].detections}
    assert sizes == pytest.approx({"red_ball": 0.2, "green_ball": 0.05})


@pytest.mark.parametrize(
    "text", ["cup=1", "red_ball", "red_ball=0", "red_ball=nan", "red_ball=1,green_ball=x"]
)
def test_scales_that_cannot_be_are_refused(ros, discs, text):
    rig = Rig(ros, bundle=discs, threads=1, camera=False, object_scales=text)
    wanted = "object_scales: wanted class=scale, of red_ball, green_ball, 0.001 to 1000, found "
    assert rig.state == "unconfigured" and wanted + repr(text.split(",")[-1]) in rig.diagnosis()[1]


def small_discs(folder):
    """The same balls, said to be half as large."""
    bundle = write_disc_bundle(folder / "small")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["name"] = "small discs"
    for entry in manifest["objects"]:
        entry["diameter"] /= 2
        entry["box_size"] = [side / 2 for side in entry["box_size"]]
        entry["keypoints"] = [[value / 2 for value in point] for point in entry["keypoints"]]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return str(bundle)


def test_another_bundle_takes_over_while_the_node_runs(ros, discs, tmp_path):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    rig.show(BALL)
    before = rig.detections[-1].detections[0].results[0].pose.pose.position.z
    result = rig.pose_node.set_parameters([Parameter("bundle", value=small_discs(tmp_path))])[0]
    assert result.successful, result.reason
    assert rig.state == "active" and rig.pose_node.get_parameter("bundle").value.endswith("small")
    assert rig.connect().show(BALL)["tracks"][0]["state"] == "new"
    after = rig.detections[-1].detections[0].results[0].pose.pose.position.z
    assert after == pytest.approx(before / 2, rel=0.05)
    assert ros.until(lambda: json.loads(rig.objects[-1].data)["bundle"] == "small discs", 10)
    assert rig.diagnosis()[2]["bundle"] == "small discs"


@pytest.mark.parametrize("fault", ["no bundle", "damaged", "people", "no start"])
def test_a_bundle_that_cannot_take_over_leaves_the_old_one_at_work(ros, discs, tmp_path, monkeypatch, fault):
    rig = Rig(ros, bundle=discs, threads=1).connect()
    rig.show(BALL)
    texts = {
        "no bundle": "wanted a folder or one of the installed",
        "damaged": "damaged or exchanged",
        "people": "set use_regions",
        "no start": "RuntimeError: no more threads",
    }
    other = tmp_path / "other"
    if fault != "no bundle":
        write_disc_bundle(other, "people" if fault == "people" else "keypoint")
    if fault == "damaged":
        (other / "network.onnx").write_bytes(b"x")
    with monkeypatch.context() as patch:
        if fault == "no start":
            begin, calls = PoseNode._begin, []

            def fail_once(node):
                calls.append(1)
                if len(calls) == 1:
                    raise RuntimeError("no more threads")
                begin(node)

            patch.setattr(PoseNode, "_begin", fail_once)
        result = rig.pose_node.set_parameters([Parameter("bundle", value=str(other))])[0]
    assert not result.successful and texts[fault] in result.reason
    assert rig.pose_node.get_parameter("bundle").value == discs and rig.state == "active"
    assert rig.connect().show(BALL)["tracks"][0]["class"] == "red_ball"
