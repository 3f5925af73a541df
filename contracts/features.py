"""From score requests to the graph's inputs: the one feature assembly of training and serving.

    ScoreRequest ──assemble()──> unique item ids + index arrays + what requests themselves carry
    fetched rows ──item_inputs()──> the graph's row inputs

Gathering and similarity live in the exported graph, so they are the same code too. Row 0 is the
padding row, all zero. Behaviours are right-aligned, newest last:

    behaviours      [ 0  0  7  3  9 ]     mask [ F F T T T ]     age  4 3 2 1 0

Graph signature RANKER_SIGNATURE (inputs by name; K unique rows, B requests, N candidates, T behaviours).
A graph has the REQUIRED ones, and of the others those that its ranker reads:

| input            | type    | shape    |                                                        |
| ---------------- | ------- | -------- | ------------------------------------------------------ |
| codes            | int8    | (K, D)   | modalities side by side                                |
| inv_norm         | float32 | (K, M)   | 0 where the modality is missing                        |
| attributes       | int32   | (K, A)   | row of the items' embedding table, 0 = absent          |
| attribute_values | float32 | (K, A)   | its factor, 0 where absent (scaled numbers)            |
| id_codes         | int8    | (K, d)   | the item's ID row                                      |
| id_scale         | float32 | (K,)     |                                                        |
| id_known         | bool    | (K,)     | false: the out-of-vocabulary row is used               |
| id_evidence      | float32 | (K,)     | log1p of the training examples behind the ID row       |
| candidates       | int32   | (B, N)   | row numbers                                            |
| behaviours       | int32   | (B, T)   | row numbers, newest last, 0 = padding                  |
| behaviour_mask   | bool    | (B, T)   |                                                        |
| gaps             | int32   | (B, T)   | time since the behaviour, `gap_buckets`, 0 = unknown   |
| context          | int32   | (B, C)   | rows of the users' and contexts' table, 0 = absent     |
| context_values   | float32 | (B, C)   | its factor, 0 where absent                             |
| query_codes      | int8    | (B, D)   | what was searched for, as a record's codes             |
| query_inv_norm   | float32 | (B, M)   | 0 where the request has no such query vector           |

Outputs: logit (B, N) float32, score (B, N) float32.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, inverse_norms, is_tombstone, quantise_absmax
from contracts.errors import InvalidInput
from contracts.items import attribute_slots
from contracts.request import ScoreRequest
from contracts.schema import FeatureSchema, encode_columns

REQUIRED_INPUTS = (
    "codes",
    "inv_norm",
    "attributes",
    "id_codes",
    "id_scale",
    "id_known",
    "candidates",
    "behaviours",
    "behaviour_mask",
)
OPTIONAL_INPUTS = (
    "attribute_values",
    "id_evidence",
    "gaps",
    "context",
    "context_values",
    "query_codes",
    "query_inv_norm",
)
GRAPH_INPUTS = REQUIRED_INPUTS + OPTIONAL_INPUTS
GRAPH_OUTPUTS = ("logit", "score")
BEHAVIOUR_INPUTS = ("behaviours", "behaviour_mask", "gaps")  # of a request's history
ROW_INPUTS = (  # of items, by row
    "codes",
    "inv_norm",
    "attributes",
    "attribute_values",
    "id_codes",
    "id_scale",
    "id_known",
    "id_evidence",
)
GAP_ROWS = 32

Inputs = dict[str, npt.NDArray[Any]]


def given_inputs(schema: FeatureSchema) -> tuple[str, ...]:
    """The graph inputs that `assemble` and `item_inputs` make for a ranker of this schema."""
    about = {
        "attribute_values": True,
        "id_evidence": True,
        "gaps": schema.time_gaps,
        "context": bool(schema.request_columns),
        "context_values": bool(schema.request_columns),
        "query_codes": bool(schema.query),
        "query_inv_norm": bool(schema.query),
    }
    return REQUIRED_INPUTS + tuple(name for name in OPTIONAL_INPUTS if about[name])


def align_histories(
    values: npt.NDArray[Any],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    length: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The newest `length` of values[start:end] per request, right-aligned.

    values: (P,) row numbers, times; starts, ends: (B,) -> behaviours (B, length) of its dtype, 0 at padding,
    and mask (B, length) bool.
    """
    position = ends[:, None] - length + np.arange(length, dtype=np.int64)[None, :]
    mask = position >= starts[:, None]
    if not len(values):
        return np.zeros(mask.shape, dtype=values.dtype), np.zeros_like(mask)
    return np.where(mask, values[np.where(mask, position, 0)], 0).astype(values.dtype), mask


def gap_buckets(elapsed_ms: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Time since a behaviour -> 1 + floor(log2(1 + seconds)), at most GAP_ROWS - 1; 0 where not known.

    elapsed_ms, known: of one shape. A behaviour that a clock puts into the future counts as just now.
    """
    seconds = np.maximum(elapsed_ms, 0) // 1000
    bucket = 1 + np.floor(np.log2(1.0 + seconds)).astype(np.int32)
    return np.where(known, np.minimum(bucket, GAP_ROWS - 1), 0).astype(np.int32)


@dataclass(frozen=True)
class Assembled:
    """item_ids: the K-1 unique ids behind rows 1..K-1; index arrays as in the module's table.

    request_inputs: those of OPTIONAL_INPUTS that are not of items, as far as the schema reads them.
    """

    item_ids: list[str]
    candidates: npt.NDArray[np.int32]
    behaviours: npt.NDArray[np.int32]
    behaviour_mask: npt.NDArray[np.bool_]
    request_inputs: Mapping[str, npt.NDArray[Any]]

    def inputs(self) -> Inputs:
        """All of the graph's inputs that do not come from fetched rows."""
        return {
            "candidates": self.candidates,
            "behaviours": self.behaviours,
            "behaviour_mask": self.behaviour_mask,
            **self.request_inputs,
        }


def assemble(requests: Sequence[ScoreRequest], schema: FeatureSchema, now_ms: int | None = None) -> Assembled:
    """Requests -> unique rows to fetch, index arrays and masks. N and T are those of the longest request.

    T is at least 1 (graphs refuse empty axes) and at most the schema's history length. now_ms: the time of
    requests that do not say theirs, None = the clock's.
    """
    row_of: dict[str, int] = {}
    n_max = max((len(r.candidates) for r in requests), default=0)
    t_max = max(1, min(schema.history_length, max((len(r.behaviours) for r in requests), default=1)))
    candidates = np.zeros((len(requests), n_max), dtype=np.int32)
    flat: list[int] = []
    ends = np.zeros(len(requests), dtype=np.int64)
    for b, request in enumerate(requests):
        candidates[b, : len(request.candidates)] = [
            row_of.setdefault(item_id, len(row_of) + 1) for item_id in request.candidates
        ]
        flat.extend(row_of.setdefault(x.item_id, len(row_of) + 1) for x in request.behaviours[-t_max:])
        ends[b] = len(flat)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
    behaviours, mask = align_histories(np.array(flat, dtype=np.int32), starts, ends, t_max)
    extra: Inputs = {}
    if schema.time_gaps:
        extra["gaps"] = _gaps(requests, starts, ends, t_max, now_ms)
    if schema.request_columns:
        extra["context"], extra["context_values"] = context_columns(
            [r.user for r in requests], [r.context for r in requests], schema
        )
    if schema.query:
        extra["query_codes"], extra["query_inv_norm"] = query_rows([r.query for r in requests], schema)
    return Assembled(list(row_of), candidates, behaviours, mask, extra)


def join(parts: Sequence[Assembled]) -> Assembled:
    """Assembled requests of one schema as one: N and T those of the longest, rows one part after the other.

    Item ids are then unique within a part only. Candidates beyond a part's own read row 0.
    """
    n = max(part.candidates.shape[1] for part in parts)
    t = max(part.behaviours.shape[1] for part in parts)
    starts = np.cumsum([0, *(len(part.item_ids) for part in parts[:-1])]).tolist()

    def wide(values: npt.NDArray[Any], width: int, old_end: bool) -> npt.NDArray[Any]:
        missing = width - values.shape[1]
        return np.pad(values, ((0, 0), (missing, 0) if old_end else (0, missing))) if missing else values

    def moved(rows: npt.NDArray[np.int32], start: int) -> npt.NDArray[np.int32]:
        return np.where(rows > 0, rows + np.int32(start), rows)

    pairs = list(zip(parts, starts, strict=True))
    return Assembled(
        [item_id for part in parts for item_id in part.item_ids],
        np.concatenate([wide(moved(part.candidates, start), n, False) for part, start in pairs]),
        np.concatenate([wide(moved(part.behaviours, start), t, True) for part, start in pairs]),
        np.concatenate([wide(part.behaviour_mask, t, True) for part in parts]),
        {
            name: np.concatenate(
                [
                    wide(part.request_inputs[name], t, True) if name == "gaps" else part.request_inputs[name]
                    for part in parts
                ]
            )
            for name in parts[0].request_inputs
        },
    )


def _gaps(
    requests: Sequence[ScoreRequest],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    t_max: int,
    now_ms: int | None,
) -> npt.NDArray[np.int32]:
    now = int(time.time() * 1e3) if now_ms is None else now_ms
    asked = np.array([now if r.timestamp_ms is None else r.timestamp_ms for r in requests], dtype=np.int64)
    given = [x.timestamp_ms for r in requests for x in r.behaviours[-t_max:]]
    times, _ = align_histories(np.array([t or 0 for t in given], dtype=np.int64), starts, ends, t_max)
    known, _ = align_histories(np.array([t is not None for t in given], dtype=bool), starts, ends, t_max)
    return gap_buckets(asked[:, None] - times, known)


def context_columns(
    users: Sequence[Mapping[str, Any]], contexts: Sequence[Mapping[str, Any]], schema: FeatureSchema
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """What is said of B users and of their requests -> context (B, C) int32, context_values (B, C) float32.

    Raises InvalidInput where a number is asked for and a string is given.
    """
    user, context = ([f.field for f in fields] for fields in (schema.user, schema.context))
    slots = [
        np.concatenate([attribute_slots(u, user, "user"), attribute_slots(c, context, "context")])
        for u, c in zip(users, contexts, strict=True)
    ]
    width = sum(f.slots for f in user + context)
    block = np.array(slots, dtype=np.uint32).reshape(len(slots), width)
    columns = encode_columns(block, schema.request_columns)
    return columns.rows, columns.values


def columns_given(context: npt.NDArray[np.int32], schema: FeatureSchema) -> npt.NDArray[np.int64]:
    """context (B, C) of `context_columns` -> how many columns of user and context each request gives: (B,).

    What a vocabulary does not know counts, an empty string does not.
    """
    widths = [f.columns for f in schema.request_columns]
    if not widths:
        return np.zeros(len(context), dtype=np.int64)
    given = np.logical_or.reduceat(context > 0, np.cumsum([0, *widths[:-1]]), axis=1)
    counts: npt.NDArray[np.int64] = given.sum(axis=1, dtype=np.int64)
    return counts


def query_rows(
    queries: Sequence[Mapping[str, Sequence[float]]], schema: FeatureSchema
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """What was searched for, by modality -> query_codes (B, D) int8, query_inv_norm (B, M) float32.

    A modality that a query lacks, and a zero vector, give zeros. Raises InvalidInput for a modality that the
    space lacks and for a vector of another width.
    """
    names = {m.name for m in schema.query}
    codes = np.zeros((len(queries), sum(m.dim for m in schema.query)), dtype=np.int8)
    inv_norm = np.zeros((len(queries), len(schema.query)), dtype=np.float32)
    for b, query in enumerate(queries):
        for name in sorted(query.keys() - names):
            raise InvalidInput(f"query.{name}", name, f"is not one of the modalities {sorted(names)}")
        start = 0
        for m, modality in enumerate(schema.query):
            vector = np.asarray(query.get(modality.name, ()), dtype=np.float32)
            if len(vector):
                if vector.shape != (modality.dim,):
                    where = f"query.{modality.name}"
                    raise InvalidInput(where, vector.shape, f"must have {modality.dim} numbers")
                row, _ = quantise_absmax(vector[None])
                codes[b, start : start + modality.dim] = row[0]
                inv_norm[b, m] = inverse_norms(row)[0]
            start += modality.dim
    return codes, inv_norm


def item_inputs(
    records: Rows,
    found: npt.NDArray[np.bool_],
    id_rows: Rows,
    id_found: npt.NDArray[np.bool_],
    schema: FeatureSchema,
) -> Inputs:
    """Fetched rows of K-1 items -> the graph's row inputs with the zero row 0 in front.

    records: (K-1,) of the space's dtype, zero where not found; found: (K-1,) bool;
    id_rows: (K-1,) int8 ID rows, zero where not found; id_found: (K-1,) bool.
    A tombstone counts as not found.
    """
    rows = len(records)
    alive = found & ~is_tombstone(records)
    codes = np.zeros((rows + 1, records.dtype["codes"].shape[0]), dtype=np.int8)
    codes[1:] = records["codes"]
    inv_norm = np.zeros((rows + 1, records.dtype["inv_norm"].shape[0]), dtype=np.float32)
    inv_norm[1:] = np.where(alive[:, None], records["inv_norm"], np.float32(0))
    columns = encode_columns(records["attributes"], schema.items)
    attributes = np.zeros((rows + 1, columns.rows.shape[1]), dtype=np.int32)
    attributes[1:] = np.where(alive[:, None], columns.rows, 0)
    attribute_values = np.zeros(attributes.shape, dtype=np.float32)
    attribute_values[1:] = np.where(alive[:, None], columns.values, 0)
    id_codes = np.zeros((rows + 1, schema.id_dim), dtype=np.int8)
    id_codes[1:] = id_rows["codes"]
    id_scale = np.zeros(rows + 1, dtype=np.float32)
    id_scale[1:] = id_rows["scale"]
    id_known = np.zeros(rows + 1, dtype=np.bool_)
    id_known[1:] = id_found
    id_evidence = np.zeros(rows + 1, dtype=np.float32)
    id_evidence[1:] = np.where(id_found, id_rows["evidence"], 0)
    return {
        "codes": codes,
        "inv_norm": inv_norm,
        "attributes": attributes,
        "attribute_values": attribute_values,
        "id_codes": id_codes,
        "id_scale": id_scale,
        "id_known": id_known,
        "id_evidence": id_evidence,
    }
