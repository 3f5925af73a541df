"""The only import of onnxruntime: sessions whose provider was really obtained, golden replay, run().

OnnxModel knows arrays, not features.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from contracts.bundle import Bundle
from contracts.errors import BrokenBundle, InvalidInput, ProviderUnavailable

Device = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_WARNING = 3  # onnxruntime's own scale: errors and worse


def check_runtime() -> str:
    """The one installed ONNX Runtime distribution; both at once overwrite each other silently."""
    found = [name for name in _DISTRIBUTIONS if _installed(name)]
    if len(found) != 1:
        raise ProviderUnavailable(
            f"install exactly one of onnxruntime (extra cpu) and onnxruntime-gpu (extra gpu); found {found}"
        )
    return found[0]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_kernels(library: Path) -> None:
    """Raises ProviderUnavailable where ONNX Runtime cannot load a library of contracts.kernels."""
    _register(onnxruntime.SessionOptions(), library)


def _register(options: onnxruntime.SessionOptions, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ORT's exceptions share no base class
        raise ProviderUnavailable(f"{library}: ONNX Runtime cannot load the kernels: {error}") from error


class OnnxModel:
    """One session. Thread-safe to run; ORT releases the interpreter lock while it computes."""

    def __init__(
        self, path: Path, *, device: Device = "cpu", threads: int = 1, kernels: Path | None = None
    ) -> None:
        """threads: of one run() on the CPU. kernels: the library of contracts.kernels, for the CPU only.

        Raises ProviderUnavailable where the device or the library was not obtained.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNING
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = _PROVIDERS[device]
        if wanted not in onnxruntime.get_available_providers():
            raise ProviderUnavailable(f"{path.name}: {wanted} is not in {check_runtime()}")
        if kernels is not None and device == "cpu":
            _register(options, kernels)
        # TF32 costs 1e-3 of a cosine and can move a similarity into another bucket.
        provider = (wanted, {"use_tf32": "0"}) if device == "cuda" else wanted
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # ORT's exceptions share no base class
            raise BrokenBundle(f"{path.name}: ONNX Runtime cannot load the graph: {error}") from error
        if self._session.get_providers()[0] != wanted:
            raise ProviderUnavailable(
                f"{path.name}: asked for {wanted}, got {self._session.get_providers()[0]}"
            )
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self.input_shapes: dict[str, tuple[int | str | None, ...]] = {
            i.name: tuple(i.shape) for i in self._session.get_inputs()
        }
        self.output_shapes: dict[str, tuple[int | str | None, ...]] = {
            o.name: tuple(o.shape) for o in self._session.get_outputs()
        }

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Named arrays in, named arrays out; an input that the graph does not have is left out."""
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise InvalidInput("inputs", sorted(inputs), f"lack {missing}")
        names = list(outputs) if outputs is not None else list(self.output_names)
        values = self._session.run(names, {name: inputs[name] for name in self.input_names})
        return dict(zip(names, values, strict=True))


class Runs(Protocol):
    """Whatever computes named arrays from named arrays as a graph does."""

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]: ...


def replay(bundle: Bundle, models: Mapping[str, Runs], tolerance: float) -> float:
    """Run each graph's golden inputs; the largest absolute difference, or BrokenBundle above `tolerance`."""
    worst = 0.0
    golden = bundle.golden()
    for graph, model in models.items():
        if graph not in golden:
            raise BrokenBundle(f"bundle {bundle.digest[:12]}: no golden inputs for graph {graph!r}")
        inputs, expected = golden[graph]
        try:
            actual = model.run(inputs, list(expected))
        except Exception as error:  # ORT's exceptions share no base class
            raise BrokenBundle(f"graph {graph!r}: golden inputs cannot be run: {error}") from error
        for name, array in expected.items():
            if actual[name].shape != array.shape:
                raise BrokenBundle(
                    f"graph {graph!r}: {name} has shape {actual[name].shape}, not {array.shape}"
                )
            difference = float(np.abs(actual[name].astype(np.float64) - array).max(initial=0.0))
            if not difference <= tolerance:
                raise BrokenBundle(f"graph {graph!r}: {name} differs from golden by {difference:.3g}")
            worst = max(worst, difference)
    return worst
