# SPDX-License-Identifier: Apache-2.0
"""Inference engines behind one small protocol, and the golden sample that proves them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from ..bundle.manifest import BundleError
from ..bundle.onnx_file import has_external_data
from ..bundle.store import Bundle


class Network(Protocol):
    """A loaded network: (1, 3, H, W) float32 in, outputs by name."""

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]: ...


class OnnxNetwork:
    """ONNX Runtime on the CPU (or any provider it offers).

    threads: of one inference; 0 = as many as cores. Spinning is off by default: with another process on the
    cores, spinning pools cost a small network hundreds of milliseconds.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        spinning: bool = False,
    ):
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError(
                "onnxruntime is not installed; install it with: pip install onnxruntime"
            ) from error
        missing = set(providers) - set(onnxruntime.get_available_providers())
        if missing:
            raise BundleError(
                f"onnxruntime has no provider {sorted(missing)}, "
                f"it offers {onnxruntime.get_available_providers()}"
            )
        _check_is_whole(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its exceptions share no base class but this
            version = onnxruntime.__version__
            old = any(word in str(error) for word in ("IR version", "opset", "Opset"))
            hint = f"; onnxruntime {version} is older than the network: pip install --upgrade onnxruntime"
            text = f"{path}: onnxruntime cannot load it ({error})"
            raise BundleError(text + (hint if old else "")) from error
        self._input = self._session.get_inputs()[0].name
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: image})))

    def replay(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """All that the network can say of an image, as the golden sample holds it."""
        return self(image)


def _check_is_whole(path: Path) -> None:
    """Refuse a network whose weights lie in other files: nothing holds their hashes."""
    try:
        external = has_external_data(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: onnxruntime cannot load it ({error})") from error
    if external:
        raise BundleError(f"{path}: wanted all weights in the file, found external data; export it again")


class ObjectNetworks:
    """A network that searches for all objects, and networks that each look at one (``object_files``)."""

    def __init__(self, search: OnnxNetwork, by_object: dict[int, OnnxNetwork]):
        self.search, self.by_object = search, by_object
        self.outputs = search.outputs

    def __call__(self, image: np.ndarray, object_id: int | None = None) -> dict[str, np.ndarray]:
        """What the search says of an image, or the network of one object, which has one class."""
        return (self.search if object_id is None else self.by_object[object_id])(image)

    def replay(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """As ``OnnxNetwork.replay``; the outputs of an object's network are named ``<output>_<id>``."""
        outputs = self.search(image)
        for object_id, network in self.by_object.items():
            outputs |= {f"{name}_{object_id}": values for name, values in network(image).items()}
        return outputs


def load_network(
    bundle: Bundle, threads: int = 0, providers: tuple[str, ...] = ("CPUExecutionProvider",)
) -> Network:
    """Load a bundle's network and replay its golden sample; raises BundleError on any disagreement."""
    search = OnnxNetwork(bundle.network_path, threads, providers)
    network: OnnxNetwork | ObjectNetworks = search
    if files := bundle.manifest.network.object_files:
        by_object = {int(i): OnnxNetwork(bundle.folder / f, threads, providers) for i, f in files.items()}
        network = ObjectNetworks(search, by_object)
    wanted = bundle.manifest.network.outputs
    if network.outputs != wanted:
        raise BundleError(f"{bundle.network_path}: outputs: wanted {wanted}, found {network.outputs}")
    check_golden(bundle, network.replay)
    return network


def check_golden(bundle: Bundle, network: Network) -> float:
    """Replay the golden sample and return the largest deviation.

    network: an engine's ``replay``. Raises BundleError past the stated tolerance.
    """
    image, expected = bundle.golden()
    spec = bundle.manifest.network
    wanted = [*spec.outputs, *(f"{name}_{i}" for i in spec.object_files for name in spec.outputs)]
    if missing := set(wanted) - set(expected):
        raise BundleError(f"{bundle.folder}: golden sample: holds no values for {sorted(missing)}")
    found = network(image)
    worst = 0.0
    for name, values in expected.items():
        if name not in found or found[name].shape != values.shape:
            raise BundleError(
                f"{bundle.folder}: golden sample: output {name!r}: wanted shape {values.shape}, "
                f"found {found[name].shape if name in found else 'none'}"
            )
        if values.dtype.kind not in "fiu":
            raise BundleError(
                f"{bundle.folder}: golden sample: output {name!r}: wanted numbers, found {values.dtype}"
            )
        worst = float(np.maximum(worst, np.abs(found[name] - values).max()))  # unlike max(), keeps a NaN
    if not worst <= bundle.manifest.golden.tolerance:
        raise BundleError(
            f"{bundle.folder}: golden sample deviates by {worst:.3g}, allowed is "
            f"{bundle.manifest.golden.tolerance:.3g}: this engine computes another network"
        )
    return worst
