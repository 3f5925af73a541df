"""A ranker as somebody serves it who has its graph and its items' rows: numpy and ONNX Runtime.

Requests are the bodies of POST /v1/score, read for `candidates` and `behaviours`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtests.peers.given import Given
from loadtests.peers.rows import Rows

_OK, _COLD, _MISSING = "ok", "cold", "missing"
_TOMBSTONE = 0x80
Body = Mapping[str, Any]
Answer = dict[str, Any]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Asked:
    """B bodies. ids: of rows 1..K-1, each once; counts: candidates of each; arrays: (B, N) and (B, T)."""

    ids: list[str]
    counts: list[int]
    arrays: Arrays


class Ranker:
    """ask() -> somebody reads the rows -> answers()."""

    def __init__(self, given: Given) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if given.kernels:
            options.register_custom_ops_library(given.kernels)
        self._session = onnxruntime.InferenceSession(given.graph, options, providers=["CPUExecutionProvider"])
        self._names: list[str] = [put.name for put in self._session.get_inputs()]

    def answers(self, asked: Asked, rows: Rows) -> list[Answer]:
        """`scores` and `statuses` of each body's candidates, by one run of the graph. rows: (K-1,)."""
        inputs, candidates = row_inputs(rows) | asked.arrays, asked.arrays["candidates"]
        names = status_names(rows)
        scores = self._session.run(["score"], {name: inputs[name] for name in self._names})[0]
        return [
            _answer(scores[b, :count].tolist(), [names[row] for row in candidates[b, :count].tolist()])
            for b, count in enumerate(asked.counts)
        ]


def ask(bodies: Sequence[Body], history: int) -> Asked:
    """history: behaviours of a body that count at most. Row 0 is padding; behaviours are right-aligned."""
    row_of: dict[str, int] = {}
    counts = [len(body["candidates"]) for body in bodies]
    histories = [body["behaviours"][-history:] for body in bodies]
    candidates = np.zeros((len(bodies), max(counts)), np.int32)
    behaviours = np.zeros((len(bodies), max(1, *map(len, histories))), np.int32)
    mask = np.zeros(behaviours.shape, np.bool_)
    for b, (body, newest) in enumerate(zip(bodies, histories, strict=True)):
        candidates[b, : counts[b]] = [
            row_of.setdefault(item_id, len(row_of) + 1) for item_id in body["candidates"]
        ]
        if newest:
            behaviours[b, -len(newest) :] = [
                row_of.setdefault(behaviour["item_id"], len(row_of) + 1) for behaviour in newest
            ]
            mask[b, -len(newest) :] = True
    arrays: Arrays = {"candidates": candidates, "behaviours": behaviours, "behaviour_mask": mask}
    return Asked(list(row_of), counts, arrays)


def row_inputs(rows: Rows) -> Arrays:
    """(K-1,) rows -> the graph's inputs of K rows, the zero row in front."""
    count = len(rows) + 1
    inputs: Arrays = {
        "codes": np.zeros((count, rows.dtype["codes"].shape[0]), np.int8),
        "inv_norm": np.zeros((count, rows.dtype["inv_norm"].shape[0]), np.float32),
        "attributes": np.zeros((count, 0), np.int32),
        "attribute_values": np.zeros((count, 0), np.float32),
        "id_codes": np.zeros((count, rows.dtype["id_codes"].shape[0]), np.int8),
        "id_scale": np.zeros(count, np.float32),
        "id_known": np.zeros(count, np.bool_),
        "id_evidence": np.zeros(count, np.float32),
    }
    for name in ("codes", "id_codes", "id_scale", "id_evidence"):
        inputs[name][1:] = rows[name]
    inputs["inv_norm"][1:] = np.where(_alive(rows)[:, None], rows["inv_norm"], np.float32(0))
    inputs["id_known"][1:] = rows["id_version"] != 0
    return inputs


def status_names(rows: Rows) -> list[str]:
    """(K-1,) rows -> the status of each of K rows, padding included."""
    alive, known = _alive(rows).tolist(), (rows["id_version"] != 0).tolist()
    return [_MISSING] + [_OK if a else _COLD if k else _MISSING for a, k in zip(alive, known, strict=True)]


def _alive(rows: Rows) -> npt.NDArray[np.bool_]:
    alive: npt.NDArray[np.bool_] = (rows["version"] != 0) & (rows["flags"] & _TOMBSTONE == 0)
    return alive


def _answer(scores: list[float | None], statuses: list[str]) -> Answer:
    """A missing candidate has no score."""
    if _MISSING in statuses:
        scores = [None if status == _MISSING else s for s, status in zip(scores, statuses, strict=True)]
    return {"scores": scores, "statuses": statuses}
