"""The only import of onnxruntime: sessions whose provider was really obtained, golden replay, run().

OnnxModel knows arrays, not features.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from contracts.bound_runs import BoundRuns, Dims, Tensors
from contracts.bundle import Bundle
from contracts.errors import BrokenBundle, InvalidInput, ProviderUnavailable
from contracts.places import check_places, places

Device = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_WARNING = 3  # onnxruntime's own scale: errors and worse
_RECORD_PLACES = "session.record_ep_graph_assignment_info"
_NOT_CAPTURED = -1  # gpu_graph_id of a run that neither captures nor replays


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


def has_device(device: Device) -> bool:
    """Whether the installed runtime was built for it; whether the device itself is there, a session tells."""
    return _PROVIDERS[device] in onnxruntime.get_available_providers()


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
        self,
        path: Path,
        *,
        device: Device = "cpu",
        threads: int = 1,
        kernels: Path | None = None,
        cuda_graphs: bool = False,
        tf32: bool = False,
    ) -> None:
        """threads: of one run() on the CPU. kernels: the library of contracts.kernels, for the CPU only.
        cuda_graphs: `run_bound` captures a CUDA graph per shape and replays it; on cuda only. tf32: products
        in TF32 there, which costs 1e-3 of a cosine and can move a similarity into another bucket.

        Raises ProviderUnavailable where the device, the library or CUDA graphs were not obtained, and where
        matrix products or convolutions of a graph for cuda were put onto the CPU.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNING
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = _PROVIDERS[device]
        if not has_device(device):
            raise ProviderUnavailable(f"{path.name}: {wanted} is not in {check_runtime()}")
        if cuda_graphs and device != "cuda":
            raise ProviderUnavailable(f"{path.name}: CUDA graphs were asked for on the device {device}")
        if kernels is not None and device == "cpu":
            _register(options, kernels)
        if device == "cuda":
            options.add_session_config_entry(_RECORD_PLACES, "1")
        cuda = {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(cuda_graphs))}
        provider = (wanted, cuda) if device == "cuda" else wanted
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # ORT's exceptions share no base class
            if cuda_graphs:  # whether the graph can be loaded at all is tried without them
                raise ProviderUnavailable(
                    f"{path.name}: ONNX Runtime refuses CUDA graphs: {error}"
                ) from error
            raise BrokenBundle(f"{path.name}: ONNX Runtime cannot load the graph: {error}") from error
        self._session.disable_fallback()  # a run that fails on the device fails
        if self._session.get_providers()[0] != wanted:
            raise ProviderUnavailable(
                f"{path.name}: asked for {wanted}, got {self._session.get_providers()[0]}"
            )
        if device == "cuda":
            check_places(path.name, wanted, places(self._session))
        self.device: Device = device
        self.captures = cuda_graphs
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.input_names: tuple[str, ...] = tuple(i.name for i in inputs)
        self.output_names: tuple[str, ...] = tuple(o.name for o in outputs)
        self.input_shapes: dict[str, Dims] = {i.name: tuple(i.shape) for i in inputs}
        self.output_shapes: dict[str, Dims] = {o.name: tuple(o.shape) for o in outputs}
        self.bound = BoundRuns(
            self._session.io_binding,
            partial(_allocate, device),
            partial(_run_binding, self._session, cuda_graphs),
            Tensors(self.input_shapes, {i.name: i.type for i in inputs}),
            Tensors(self.output_shapes, {o.name: o.type for o in outputs}),
        )

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Named arrays in, named arrays out; an input that the graph does not have is left out."""
        self._check(inputs)
        names = list(outputs) if outputs is not None else list(self.output_names)
        given = {name: inputs[name] for name in self.input_names}
        if self.captures:  # captured graphs and other runs of their session must not overlap
            with self.bound.lock:
                values = self._session.run(names, given, _run_options(_NOT_CAPTURED))
        else:
            values = self._session.run(names, given)
        return dict(zip(names, values, strict=True))

    def run_bound(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """As `run`, through buffers kept on the device for inputs of exactly these shapes; one at a time.

        The first run of a shape allocates and, with `captures`, captures. Shapes beyond
        contracts.bound_runs' bounds run as `run` does.
        """
        self._check(inputs)
        names = list(outputs) if outputs is not None else list(self.output_names)
        values = self.bound.run(inputs, names)
        return self.run(inputs, names) if values is None else values

    def _check(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise InvalidInput("inputs", sorted(inputs), f"lack {missing}")


def _allocate(device: Device, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, device, 0)


def _run_binding(session: Any, captures: bool, binding: Any, number: int) -> None:
    session.run_with_iobinding(binding, _run_options(number) if captures else None)


def _run_options(graph: int) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


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
