"""A generation's graph run in few shapes: padded to a bucket, through buffers kept for it, cut back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from contracts.onnx_model import Device, OnnxModel
from contracts.shape_buckets import ShapeBuckets, buckets_for, pad, shape_of
from serving.settings import ScorerSettings

MOST_REQUESTS = 16  # joined in one run
_SIZED = ("candidates", "behaviours", "inv_norm")  # tell B, N, T and K


class HowGraphsRun(NamedTuple):
    """For the log and a metric. cuda_graphs: captured, or off (not asked for, or refused and said)."""

    device: Device
    buckets: Literal["on", "off"]
    cuda_graphs: Literal["captured", "off"]


@dataclass(frozen=True, eq=False)
class BucketedRuns:
    """Outputs are (B, N). Inputs beyond the largest bucket run as they are."""

    model: OnnxModel
    buckets: ShapeBuckets

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """The graph's named outputs for inputs of any shape."""
        shape = shape_of(inputs)
        bucket = self.buckets.of(shape)
        if bucket is None or len(inputs["inv_norm"]) > bucket.rows:
            return self.model.run(inputs, outputs)
        read = {
            name: inputs[name] for name in {*self.model.input_names, "candidates", "behaviours", "inv_norm"}
        }
        # buffers and captures of several requests would first be made under traffic, and not be compared
        run = self.model.run_bound if shape.requests == 1 else self.model.run
        values = run(pad(read, bucket), outputs)
        return {name: value[: shape.requests, : shape.candidates] for name, value in values.items()}


def uses_buckets(settings: ScorerSettings) -> bool:
    """auto: on a GPU."""
    return settings.shape_buckets == "on" or (settings.shape_buckets == "auto" and settings.device == "cuda")


def wants_cuda_graphs(settings: ScorerSettings) -> bool:
    """Whether they are tried."""
    return settings.device == "cuda" and settings.cuda_graphs != "off" and uses_buckets(settings)


def bucketed(model: OnnxModel, settings: ScorerSettings, history_length: int) -> BucketedRuns | None:
    """The graph in buckets up to the settings' limits, None where it runs in the shapes that come."""
    if not uses_buckets(settings):
        return None
    return BucketedRuns(model, buckets_for(settings.max_candidates, history_length, MOST_REQUESTS))
