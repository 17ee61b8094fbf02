# SPDX-License-Identifier: Apache-2.0
"""The bundle refuses everything that is not exactly what was written, by file and field."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from pose_kd_ros.bundle.manifest import (
    SCHEMA,
    BundleError,
    DecodeSpec,
    GoldenSpec,
    InputSpec,
    Manifest,
    NetworkSpec,
    ObjectSpec,
    PeopleSpec,
    TrainingSpec,
)
from pose_kd_ros.bundle.store import golden_input, open_bundle, sha256, write_bundle
from pose_kd_ros.core.object_model import box_corners


def manifest(**changes):
    cube = ObjectSpec(
        1,
        "cube",
        0.1455,
        [0.0] * 3,
        [0.084] * 3,
        box_corners((0, 0, 0), (0.084,) * 3).tolist(),
        [],
        [],
        np.eye(3).tolist(),
        "its centre",
    )
    values = {
        "schema": SCHEMA,
        "name": "test",
        "family": "keypoint",
        "input": InputSpec(256, 320, 64, 1.5, "rgb", [0.5] * 3, [0.25] * 3),
        "network": NetworkSpec("network.onnx", ["scores", "offsets"], [8, 16, 32, 64], 1, 0.1),
        "objects": [cube],
        "decode": DecodeSpec(0.3, 0.5, []),
        "golden": GoldenSpec("golden.npz", 0, 64, 64, 0.01),
        "training": TrainingSpec("none", "none", "none", 0, 0, "unknown", "2000-01-01", "none"),
        "files": {"network.onnx": "", "golden.npz": ""},
    }
    return Manifest(**{**values, **changes})


@pytest.fixture
def bundle(tmp_path):
    network, golden = tmp_path / "n", tmp_path / "g.npz"
    network.write_bytes(b"not a network, but a file")
    np.savez(golden, scores=np.zeros(3))
    return write_bundle(tmp_path / "bundle", manifest(), {"network.onnx": network, "golden.npz": golden})


def test_what_was_written_is_what_is_opened(bundle):
    again = open_bundle(bundle.folder)
    assert again.manifest == bundle.manifest and again.objects[0].name == "cube"
    image, outputs = again.golden()
    assert image.shape == (1, 3, 64, 64) and outputs["scores"].tolist() == [0, 0, 0]


def test_one_flipped_byte_is_named(bundle):
    content = bytearray(bundle.network_path.read_bytes())
    content[3] ^= 1
    bundle.network_path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"network\.onnx: damaged or exchanged"):
        open_bundle(bundle.folder)


def test_a_missing_file_is_named(bundle):
    (bundle.folder / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz: missing"):
        open_bundle(bundle.folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"not a bundle \(no manifest\.json\)"):
        open_bundle(tmp_path)


def edited(bundle, change):
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return bundle.folder


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.update(extra=1), r"unknown keys \['extra'\]"),
        (lambda m: m["input"].pop("size"), r"manifest\.input: missing keys \['size'\]"),
        (lambda m: m["input"].update(size="256"), r"manifest\.input\.size: wanted int, found '256'"),
        (lambda m: m["input"].update(size=True), r"manifest\.input\.size: wanted int"),
        (lambda m: m["input"].update(size=250), r"input\.size: wanted a multiple of 64, found 250"),
        (lambda m: m["input"].update(channels="grey"), "input.channels"),
        (lambda m: m["input"].update(stride=0), r"input\.stride: wanted more than 0, found 0"),
        (lambda m: m["network"].update(strides=[8, 0]), r"network\.strides: wanted .* found \[8, 0\]"),
        (lambda m: m["network"].update(strides=[8, 128]), r"wanted divisors of input\.stride, 64, found 128"),
        (lambda m: m.update(schema=99), "schema: wanted 1, found 99"),
        (lambda m: m.update(family="magic"), "family: wanted one of .*, found 'magic'"),
        (lambda m: m["objects"][0].update(diameter=-1), "diameter: wanted 1 mm to 100 m, found -1.0 m"),
        (
            lambda m: m["objects"][0].update(diameter=float("nan")),
            r"objects\[0\]\.diameter: wanted a finite number",
        ),
        (lambda m: m["objects"].append(m["objects"][0]), "ids unique"),
        (
            lambda m: m["objects"].append({**m["objects"][0], "id": 2}),
            r"wanted class names that differ, found \['cube', 'cube'\]",
        ),
        (lambda m: m["decode"]["vote_scale"].update({"1": 0}), r"vote_scale\.1: wanted more than 0, found 0"),
        (lambda m: m["decode"]["vote_scale"].update({"7": 1}), r"vote_scale: wanted ids of \[1\], found"),
        (
            lambda m: m["network"].update(object_files={"7": "network.onnx"}),
            r"network\.object_files: wanted none in the keypoint family",
        ),
        (
            lambda m: (m.update(family="surface"), m["network"].update(strides=[4], object_files={"7": "a"})),
            r"network\.object_files: wanted ids of \[1\], found \['7'\]",
        ),
        (
            lambda m: (m.update(family="surface"), m["network"].update(strides=[4], object_files={"1": "a"})),
            "no hash for 'a'",
        ),
        (lambda m: m["objects"][0]["keypoints"][2].pop(), "object 'cube': keypoints"),
        (lambda m: m["golden"].update(height=20000, width=20000), "golden: .* found 20000x20000"),
        (lambda m: m["golden"].update(height=-1, width=-1), "golden: .* found -1x-1"),
        (lambda m: m["golden"].update(seed=-1), r"golden\.seed.*found -1"),
        (lambda m: m["input"].update(size=64000), r"input\.size: wanted at most 4096, found 64000"),
        (lambda m: m["input"].update(margin=0), r"input\.margin.*found 0"),
        (lambda m: m["decode"].update(calibration=[1.0]), r"calibration: wanted \(0, 5\) weights, found 1"),
        (
            lambda m: m["objects"][0].update(
                symmetries_discrete=[np.eye(4).tolist()] * 150,
                symmetries_continuous=[[[0, 0, 1], [0, 0, 0]]] * 24,
            ),
            "object 'cube': symmetries: wanted at most 4096, found 1141560",
        ),
        (lambda m: m["objects"][0].update(keypoints=[[0, 0, 0]] * 5000), "keypoints: wanted at most 4096"),
        (lambda m: m["objects"][0].update(class_name="a\nb"), "class_name: wanted printable text"),
        (lambda m: m["objects"][0].update(diameter=10**400), r"diameter: wanted a finite number"),
        (lambda m: m["training"].update(steps=10**30), r"training\.steps: wanted an int below"),
        (lambda m: m.update(name="a" * 5000), "name: wanted at most 4096 characters"),
        (lambda m: m["files"].update({"a\ud800": "00"}), "outside the bundle"),
        (lambda m: m["files"].update({"../secret": "00"}), "outside the bundle"),
        (lambda m: m["files"].pop("network.onnx"), "no hash for 'network.onnx'"),
    ],
)
def test_a_wrong_field_is_named(bundle, change, message):
    with pytest.raises(BundleError, match=message):
        open_bundle(edited(bundle, change))


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, '{"a": 1', "\ufeff{}"])
def test_json_that_python_stumbles_over_is_refused(bundle, text):
    (bundle.folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("name", ["weights.bin", ".hidden", "locator"])
def test_a_file_that_the_manifest_does_not_list_is_refused(bundle, name):
    (bundle.folder / name).mkdir() if name == "locator" else (bundle.folder / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=rf"wanted only the files .* found \['{name}'\]"):
        open_bundle(bundle.folder)


def test_arrays_that_unpack_to_more_than_memory_are_refused(bundle, monkeypatch):
    np.savez_compressed(bundle.folder / "golden.npz", scores=np.zeros(10**6))
    monkeypatch.setattr("pose_kd_ros.bundle.store.MOST_ARRAYS", 10**6)
    with pytest.raises(BundleError, match="wanted at most 1000000 bytes of arrays, found 8000"):
        bundle.golden()


PEOPLE = PeopleSpec(["nose", "left_eye", "right_eye"], [[0, 1], [0, 2]], [[1, 2]])


def people_manifest(**changes):
    tall = InputSpec(256, 256, 32, 1.25, "rgb", [0.5] * 3, [0.25] * 3, 0.75)
    network = NetworkSpec("network.onnx", ["heatmaps"], [4], 1, 0.1)
    values = {"family": "heatmap", "input": tall, "network": network, "objects": [], "people": PEOPLE}
    return manifest(**{**values, **changes})


def test_keys_with_defaults_may_be_absent(bundle):
    def without(m):
        del m["people"], m["locator"], m["input"]["aspect"], m["training"]["metrics"]
        del m["decode"]["vote_scale"], m["network"]["object_files"]

    assert open_bundle(edited(bundle, without)).manifest == bundle.manifest


def test_a_bundle_for_people_is_read_as_it_was_written(bundle, tmp_path):
    files = {"network.onnx": tmp_path / "n", "golden.npz": tmp_path / "g.npz"}
    again = open_bundle(write_bundle(tmp_path / "people", people_manifest(), files).folder)
    assert again.manifest.people == PEOPLE and again.manifest.input.width == 192 and again.objects == ()
    with pytest.raises(
        BundleError, match=r"manifest\.people: missing keys \['flip'\], unknown keys \['left'\]"
    ):
        open_bundle(edited(again, lambda m: m["people"].update(left=m["people"].pop("flip"))))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: people_manifest(people=None), r"objects: wanted at least one, ids unique, found ids \[\]"),
        (lambda: people_manifest(objects=manifest().objects), r"objects: wanted none .* found ids \[1\]"),
        (
            lambda: people_manifest(family="keypoint"),
            "people: wanted a bundle of the heatmap family, .*keypoint",
        ),
        (
            lambda: people_manifest(network=NetworkSpec("network.onnx", ["heatmaps"], [4, 8], 1, 0.1)),
            r"network\.strides: wanted one of the heatmap family, found \[4, 8\]",
        ),
        (lambda: PeopleSpec(["nose", "nose"], [], []), r"people\.keypoints: wanted .* no two equal"),
        (
            lambda: PeopleSpec(["nose", "ear"], [[0, 2]], []),
            r"people\.links: wanted .* below 2, found \[0, 2\]",
        ),
        (lambda: PeopleSpec(["nose", "ear"], [[0]], []), r"people\.links: wanted pairs .* found \[0\]"),
        (
            lambda: PeopleSpec(["a", "b", "c"], [], [[0, 1], [1, 2]]),
            r"people\.flip: wanted every keypoint in one",
        ),
        (
            lambda: InputSpec(256, 256, 32, 1.5, "rgb", [0.5] * 3, [0.2] * 3, 0.7),
            r"input\.aspect: wanted a width that is a multiple of 32, found 0\.7, which makes 179\.2",
        ),
        (
            lambda: InputSpec(256, 256, 32, 1.5, "rgb", [0.5] * 3, [0.2] * 3, -1.0),
            r"input\.aspect: .*, found -1",
        ),
    ],
)
def test_what_contradicts_itself_is_named(make, message):
    with pytest.raises(BundleError, match=message):
        make()


def test_a_link_out_of_the_bundle_is_refused(bundle, tmp_path):
    content = bundle.network_path.read_bytes()
    bundle.network_path.unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    bundle.network_path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle.folder)


def test_pickles_are_not_read(bundle):
    np.savez(bundle.folder / "golden.npz", scores=np.array([{}], dtype=object))
    edited(bundle, lambda m: m["files"].update({"golden.npz": sha256(bundle.folder / "golden.npz")}))
    with pytest.raises(BundleError, match="not a plain npz"):
        open_bundle(bundle.folder).golden()


def test_a_cut_off_golden_sample_is_named(bundle):
    path = bundle.folder / "golden.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BundleError, match="not a plain npz"):
        bundle.golden()


def test_a_failed_write_leaves_the_old_bundle_and_no_debris(bundle, tmp_path, monkeypatch):
    before = {p.name: p.read_bytes() for p in bundle.folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pose_kd_ros.bundle.store.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        write_bundle(
            bundle.folder, manifest(), {"network.onnx": tmp_path / "n", "golden.npz": tmp_path / "g.npz"}
        )
    assert {p.name: p.read_bytes() for p in bundle.folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "g.npz", "n"]


def test_writing_over_a_bundle_replaces_it_whole(bundle, tmp_path):
    (bundle.folder / "stray").write_text("left from before")
    again = write_bundle(
        bundle.folder,
        manifest(name="new"),
        {"network.onnx": tmp_path / "n", "golden.npz": tmp_path / "g.npz"},
    )
    assert again.manifest.name == "new"
    assert sorted(p.name for p in bundle.folder.iterdir()) == ["golden.npz", "manifest.json", "network.onnx"]


def test_the_golden_input_is_the_same_everywhere():
    image = golden_input(0, 64, 64)
    assert image.dtype == np.float32 and image.shape == (1, 3, 64, 64)
    # written down once; a NumPy that draws otherwise would make every bundle fail its replay
    assert image[0, :, 5, 7] == pytest.approx([1.51849, 1.12325, 0.40164], abs=1e-4)


def heatmap_manifest(**changes):
    network = NetworkSpec("network.onnx", ["heatmaps"], [4], 1, 0.1)
    return manifest(**{"family": "heatmap", "network": network, **changes})


@pytest.fixture
def files(bundle, tmp_path):
    return {"network.onnx": tmp_path / "n", "golden.npz": tmp_path / "g.npz"}


@pytest.fixture
def both(bundle, files, tmp_path):
    """A heatmap bundle that holds ``bundle`` as its locator."""
    return write_bundle(tmp_path / "both", heatmap_manifest(name="both"), files, bundle)


def test_a_bundle_holds_the_one_that_finds_its_objects(bundle, both):
    again = open_bundle(both.folder)
    assert again.locator.manifest == bundle.manifest and again.locator.folder == both.folder / "locator"
    assert again.manifest.locator == sha256(bundle.folder / "manifest.json")
    assert not again.manifest.needs_regions and bundle.locator is None
    assert heatmap_manifest().needs_regions


def test_a_bundle_may_be_written_over_by_itself_with_its_locator(both):
    files = {name: both.folder / name for name in both.manifest.files}
    again = write_bundle(both.folder, heatmap_manifest(name="anew"), files, both.locator)
    assert again.manifest.name == "anew" and again.locator.manifest == both.locator.manifest
    without = write_bundle(both.folder, heatmap_manifest(), files)
    assert without.locator is None and not (both.folder / "locator").exists()


def test_a_bundle_whose_locator_cannot_be_copied_is_not_written(both, files, tmp_path):
    (both.folder / "locator" / "golden.npz").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=r"locator/golden\.npz"):
        write_bundle(both.folder, heatmap_manifest(name="anew"), files, both.locator)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "harm, message",
    [
        (shutil.rmtree, r"locator/manifest\.json: wanted the locator that .* names, found none"),
        (lambda place: (place / "network.onnx").unlink(), r"locator/network\.onnx: missing"),
        (lambda place: (place / "network.onnx").write_bytes(b""), r"locator/network\.onnx: damaged"),
        (
            lambda place: (place / "manifest.json").write_text("{}"),
            r"locator/manifest\.json: damaged or exchanged: wanted SHA-256 \w{12}.*, found 44136fa355b3",
        ),
        (
            lambda place: place.rename(place.with_name("moved")).joinpath("../locator").symlink_to("moved"),
            r"locator/manifest\.json: wanted the locator .*, found a link",
        ),
    ],
)
def test_a_locator_that_is_not_the_one_that_was_written_is_named(both, harm, message):
    harm(both.folder / "locator")
    with pytest.raises(BundleError, match=message):
        open_bundle(both.folder)


def test_an_empty_hash_of_a_locator_is_not_none(bundle, files, tmp_path):
    told = write_bundle(tmp_path / "told", heatmap_manifest(), files)
    with pytest.raises(BundleError, match=r"locator/manifest\.json: wanted the locator"):
        open_bundle(edited(told, lambda m: m.update(locator="")))


@pytest.mark.parametrize(
    "outer, message",
    [
        (manifest, r"locator: wanted none but in a dense, .* bundle, found one of the keypoint family"),
        (people_manifest, r"locator: wanted none but in a dense, .* bundle, found one for people"),
        (
            lambda: heatmap_manifest(objects=[dataclasses.replace(manifest().objects[0], id=7)]),
            r"locator/manifest\.json: .*wanted one that finds any of the objects \[7\], found \[1\]",
        ),
    ],
)
def test_a_bundle_that_a_locator_cannot_serve_is_not_written(bundle, files, tmp_path, outer, message):
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "outer", outer(), files, bundle)
    assert not (tmp_path / "outer").exists()


@pytest.mark.parametrize("with_its_own", [False, True])
def test_a_locator_must_search_by_itself_and_have_none(bundle, both, files, tmp_path, with_its_own):
    told = both if with_its_own else write_bundle(tmp_path / "told", heatmap_manifest(), files)
    with pytest.raises(BundleError, match="json: locator: wanted one of the keypoint family, found 'heat"):
        write_bundle(tmp_path / "outer", heatmap_manifest(), files, told)


def test_a_keypoint_locator_with_a_locator_is_refused(both):
    """Written by hand: no bundle of the keypoint family is written with one."""
    edited_locator = edited(both.locator, lambda m: m.update(locator="00"))
    new = sha256(edited_locator / "manifest.json")
    with pytest.raises(BundleError, match=r"locator/manifest\.json: locator: wanted none but in a dense"):
        open_bundle(edited(both, lambda m: m.update(locator=new)))
