"""Inference engines behind one small protocol, and the golden sample that proves them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from ..bundle.manifest import BundleError
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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its exceptions share no base class but this
            raise BundleError(f"{path}: onnxruntime cannot load it ({error})") from error
        self._input = self._session.get_inputs()[0].name
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: image})))


def load_network(
    bundle: Bundle, threads: int = 0, providers: tuple[str, ...] = ("CPUExecutionProvider",)
) -> Network:
    """Load a bundle's network and replay its golden sample; raises BundleError on any disagreement."""
    network = OnnxNetwork(bundle.network_path, threads, providers)
    wanted = bundle.manifest.network.outputs
    if network.outputs != wanted:
        raise BundleError(f"{bundle.network_path}: outputs are {network.outputs}, the manifest says {wanted}")
    check_golden(bundle, network)
    return network


def check_golden(bundle: Bundle, network: Network) -> float:
    """Replay the golden sample and return the largest deviation; raises BundleError past the stated
    tolerance."""
    image, expected = bundle.golden()
    missing = set(bundle.manifest.network.outputs) - set(expected)
    if missing:
        raise BundleError(f"{bundle.folder}: golden sample: holds no values for {sorted(missing)}")
    found = network(image)
    worst = 0.0
    for name, values in expected.items():
        if name not in found or found[name].shape != values.shape:
            raise BundleError(
                f"{bundle.folder}: golden sample: output {name!r} wants shape {values.shape}, "
                f"the network gave {found[name].shape if name in found else 'none'}"
            )
        worst = float(np.maximum(worst, np.abs(found[name] - values).max()))  # unlike max(), keeps a NaN
    if not worst <= bundle.manifest.golden.tolerance:
        raise BundleError(
            f"{bundle.folder}: golden sample deviates by {worst:.3g}, allowed is "
            f"{bundle.manifest.golden.tolerance:.3g}: this engine computes another network"
        )
    return worst
