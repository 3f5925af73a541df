"""Runs of a session through buffers on its device that are kept per shape: IO binding, CUDA graphs.

One copy in per input, one run, one copy back. A captured CUDA graph reads and writes the addresses that it
was captured with, so buffers are never given away again; beyond the bounds, further shapes have none.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput

log = logging.getLogger(__name__)
MOST_SHAPES = 256
MOST_BYTES = 1 << 30  # of inputs and outputs; what a run needs in between is the runtime's own
_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}

Dims = tuple[int | str | None, ...]
Allocate = Callable[[tuple[int, ...], type[np.generic]], Any]  # shape, dtype -> an OrtValue on the device
Run = Callable[[Any, int], None]  # IO binding, number of the shape -> its outputs are written


@dataclass(frozen=True, eq=False)
class Tensors:
    """A session's inputs or outputs: name -> (dims as the graph names them, ONNX Runtime's type)."""

    dims: Mapping[str, Dims]
    types: Mapping[str, str]

    def dtype(self, name: str) -> type[np.generic]:
        try:
            return _NUMPY[self.types[name]]
        except KeyError:
            raise InvalidInput(f"graph.{name}", self.types.get(name), "cannot be bound to a buffer") from None


@dataclass(frozen=True, eq=False)
class _Bound:
    """Buffers of one shape. number: from 1, of the shape among all."""

    number: int
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class BoundRuns:
    """One session's. Runs are one at a time: buffers and captured graphs are not re-entrant."""

    def __init__(
        self,
        new_binding: Callable[[], Any],
        allocate: Allocate,
        run: Run,
        inputs: Tensors,
        outputs: Tensors,
        *,
        most_shapes: int = MOST_SHAPES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._new_binding, self._allocate, self._run = new_binding, allocate, run
        self._inputs, self._outputs = inputs, outputs
        self._most_shapes, self._most_bytes = most_shapes, most_bytes
        self._bound: dict[tuple[Any, ...], _Bound] = {}
        self._refused = False  # the device had no room for buffers: no further shape gets any
        self.bytes = 0
        self.lock = threading.Lock()

    @property
    def shapes(self) -> int:
        """How many shapes have buffers."""
        return len(self._bound)

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]] | None:
        """Named arrays in, copies of the named outputs out; None where this shape gets no buffers.

        Raises InvalidInput where an input has another type than the graph's, or an output's size cannot be
        told from the inputs'.
        """
        key = (*(inputs[name].shape for name in self._inputs.dims), *outputs)
        with self.lock:
            bound = self._bound.get(key) or self._bind(key, inputs, outputs)
            if bound is None:
                return None
            for name, buffer in bound.inputs.items():
                self._check_type(name, inputs[name])
                buffer.update_inplace(np.ascontiguousarray(inputs[name]))
            bound.binding.synchronize_inputs()
            self._run(bound.binding, bound.number)
            bound.binding.synchronize_outputs()
            return {name: np.array(bound.outputs[name].numpy()) for name in outputs}

    def _check_type(self, name: str, array: npt.NDArray[Any]) -> None:
        if array.dtype != self._inputs.dtype(name):
            raise InvalidInput(f"inputs.{name}", array.dtype, f"must be {self._inputs.types[name]}")

    def _bind(
        self, key: tuple[Any, ...], inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
    ) -> _Bound | None:
        sizes = self._sizes(inputs)
        shapes = {name: self._shape(name, sizes) for name in outputs}
        needed = sum(inputs[name].nbytes for name in self._inputs.dims)
        needed += sum(math.prod(s) * np.dtype(self._outputs.dtype(n)).itemsize for n, s in shapes.items())
        if self._refused or len(self._bound) >= self._most_shapes or self.bytes + needed > self._most_bytes:
            return None
        binding = self._new_binding()
        given, made = {}, {}
        for name in self._inputs.dims:
            self._check_type(name, inputs[name])
        try:
            for name in self._inputs.dims:
                given[name] = self._allocate(inputs[name].shape, self._inputs.dtype(name))
                binding.bind_ortvalue_input(name, given[name])
            for name, shape in shapes.items():
                made[name] = self._allocate(shape, self._outputs.dtype(name))
                binding.bind_ortvalue_output(name, made[name])
        except Exception as error:  # ORT's exceptions share no base class
            self._refused = True
            log.warning("no buffers for further shapes: %s", error)
            return None
        self._bound[key] = _Bound(len(self._bound) + 1, binding, given, made)
        self.bytes += needed
        return self._bound[key]

    def _sizes(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, dims in self._inputs.dims.items():
            if len(dims) != inputs[name].ndim:
                raise InvalidInput(f"inputs.{name}", inputs[name].shape, f"must have the axes {dims}")
            for dim, size in zip(dims, inputs[name].shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise InvalidInput(
                        f"inputs.{name}", inputs[name].shape, f"has {dim} = {sizes[dim]} elsewhere"
                    )
                if isinstance(dim, int) and dim != size:
                    raise InvalidInput(f"inputs.{name}", inputs[name].shape, f"must have the axes {dims}")
        return sizes

    def _shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        dims = self._outputs.dims[name]
        known = [dim if isinstance(dim, int) else sizes.get(dim or "") for dim in dims]
        if None in known:
            raise InvalidInput(f"graph.{name}", dims, "has a size that no input tells")
        return tuple(size for size in known if size is not None)
