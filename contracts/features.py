"""From a score request to the graph's inputs: the one feature assembly of training and serving.

    ScoreRequest ──assemble()──> unique item ids + index arrays + masks
    fetched rows ──item_inputs()──> the graph's row inputs

Gathering and similarity live in the exported graph, so they are the same code too. Row 0 is the
padding row, all zero. Behaviours are right-aligned, newest last:

    behaviours      [ 0  0  7  3  9 ]     mask [ F F T T T ]     age  4 3 2 1 0

Graph signature RANKER_SIGNATURE (inputs by name; K unique rows, B requests, N candidates, T behaviours):

| input          | type    | shape    |                                                        |
| -------------- | ------- | -------- | ------------------------------------------------------ |
| codes          | int8    | (K, D)   | modalities side by side                                |
| inv_norm       | float32 | (K, M)   | 0 where the modality is missing                        |
| attributes     | int32   | (K, A)   | row of the ranker's attribute table, 0 = absent        |
| id_codes       | int8    | (K, d)   | the item's ID row                                      |
| id_scale       | float32 | (K,)     |                                                        |
| id_known       | bool    | (K,)     | false: the out-of-vocabulary row is used               |
| candidates     | int32   | (B, N)   | row numbers                                            |
| behaviours     | int32   | (B, T)   | row numbers, newest last, 0 = padding                  |
| behaviour_mask | bool    | (B, T)   |                                                        |

Outputs: logit (B, N) float32, score (B, N) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, is_tombstone
from contracts.errors import InvalidInput, TooLarge, UnknownVersion
from contracts.items import AttributeField, check_item_id

FEATURES_VERSION = 1
RANKER_SIGNATURE = 1
GRAPH_INPUTS = (
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
GRAPH_OUTPUTS = ("logit", "score")
MAX_CANDIDATES = 2_000
MAX_BEHAVIOURS = 1_000


@dataclass(frozen=True)
class Behaviour:
    """One past positive action of a user. timestamp_ms may be None: then the order given counts."""

    item_id: str
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """Items to score for one user. behaviours: newest last."""

    candidates: Sequence[str]
    behaviours: Sequence[Behaviour] = ()
    scene: str = "default"
    user_id: str | None = None


def check_request(request: ScoreRequest) -> ScoreRequest:
    """The request, or InvalidInput / TooLarge that names the field."""
    check_item_id(request.scene, "scene")
    if len(request.scene) > 128:
        raise InvalidInput("scene", request.scene, "must have 1 to 128 characters")
    if request.user_id is not None:
        check_item_id(request.user_id, "user_id")
    if len(request.candidates) > MAX_CANDIDATES:
        raise TooLarge("candidates", len(request.candidates), MAX_CANDIDATES, "items")
    if len(request.behaviours) > MAX_BEHAVIOURS:
        raise TooLarge("behaviours", len(request.behaviours), MAX_BEHAVIOURS, "items")
    for n, item_id in enumerate(request.candidates):
        check_item_id(item_id, f"candidates[{n}]")
    last_ms = None
    for j, behaviour in enumerate(request.behaviours):
        check_item_id(behaviour.item_id, f"behaviours[{j}].item_id")
        if behaviour.timestamp_ms is None:
            continue
        if type(behaviour.timestamp_ms) is not int:
            raise InvalidInput(f"behaviours[{j}].timestamp_ms", behaviour.timestamp_ms, "must be an integer")
        if not 0 <= behaviour.timestamp_ms < 2**63:
            raise InvalidInput(f"behaviours[{j}].timestamp_ms", behaviour.timestamp_ms, "must be 0 to 2^63-1")
        if last_ms is not None and behaviour.timestamp_ms < last_ms:
            raise InvalidInput(
                f"behaviours[{j}].timestamp_ms", behaviour.timestamp_ms, "goes back: the newest must be last"
            )
        last_ms = behaviour.timestamp_ms
    return request


def align_histories(
    values: npt.NDArray[np.int32],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    length: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """The newest `length` of values[start:end] per request, right-aligned.

    values: (P,) row numbers; starts, ends: (B,) -> behaviours (B, length) int32, mask (B, length) bool.
    """
    position = ends[:, None] - length + np.arange(length, dtype=np.int64)[None, :]
    mask = position >= starts[:, None]
    if not len(values):
        return np.zeros(mask.shape, dtype=np.int32), np.zeros_like(mask)
    return np.where(mask, values[np.where(mask, position, 0)], 0).astype(np.int32), mask


@dataclass(frozen=True)
class Assembled:
    """item_ids: the K-1 unique ids behind rows 1..K-1; index arrays as in the module's table."""

    item_ids: list[str]
    candidates: npt.NDArray[np.int32]
    behaviours: npt.NDArray[np.int32]
    behaviour_mask: npt.NDArray[np.bool_]


def assemble(requests: Sequence[ScoreRequest], history_length: int) -> Assembled:
    """Requests -> unique rows to fetch, index arrays and masks. N and T are those of the longest request.

    T is at least 1 (graphs refuse empty axes) and at most history_length.
    """
    row_of: dict[str, int] = {}
    n_max = max((len(r.candidates) for r in requests), default=0)
    t_max = max(1, min(history_length, max((len(r.behaviours) for r in requests), default=1)))
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
    return Assembled(list(row_of), candidates, behaviours, mask)


@dataclass(frozen=True)
class AttributeVocabulary:
    """How a ranker reads one attribute field.

    categorical: `tokens` (V,) uint32 sorted hashes; index 0 = unknown, 1..V = tokens.
    numeric: `edges` (V,) float32 ascending; index 0 = absent is not used, 1..V+1 = the bin.
    """

    field: AttributeField
    tokens: npt.NDArray[np.uint32]
    edges: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        where = f"attributes.{self.field.name}"
        if not (self.tokens[1:] > self.tokens[:-1]).all():
            raise InvalidInput(f"{where}.tokens", self.tokens, "must ascend")
        if np.isnan(self.edges).any() or not (self.edges[1:] >= self.edges[:-1]).all():
            raise InvalidInput(f"{where}.edges", self.edges, "must ascend")

    @property
    def size(self) -> int:
        """Rows of the field's part of the attribute table."""
        return 1 + (len(self.edges) + 1 if self.field.kind == "numeric" else len(self.tokens))


@dataclass(frozen=True)
class FeatureSchema:
    """What a ranker bundle says about its inputs."""

    history_length: int
    id_dim: int
    vocabularies: tuple[AttributeVocabulary, ...]

    @property
    def attribute_rows(self) -> int:
        """Rows of the concatenated attribute table, row 0 = absent included."""
        return 1 + sum(v.size for v in self.vocabularies)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": FEATURES_VERSION,
            "signature": RANKER_SIGNATURE,
            "history_length": self.history_length,
            "id_dim": self.id_dim,
            "attributes": [
                {
                    "name": v.field.name,
                    "kind": v.field.kind,
                    "slots": v.field.slots,
                    "tokens": v.tokens.tolist(),
                    "edges": [float(e) for e in v.edges],
                }
                for v in self.vocabularies
            ],
        }


def schema_from_json(document: dict[str, Any]) -> FeatureSchema:
    """`FeatureSchema.to_json()` back; UnknownVersion where this build does not read it."""
    if not isinstance(document, dict):
        raise InvalidInput("feature schema", document, "must be an object")
    if document.get("version") != FEATURES_VERSION:
        raise UnknownVersion("feature schema", document.get("version"), FEATURES_VERSION)
    if document.get("signature") != RANKER_SIGNATURE:
        raise UnknownVersion("ranker signature", document.get("signature"), RANKER_SIGNATURE)
    try:
        return FeatureSchema(
            history_length=int(document["history_length"]),
            id_dim=int(document["id_dim"]),
            vocabularies=tuple(
                AttributeVocabulary(
                    AttributeField(a["name"], a["kind"], int(a["slots"])),
                    np.array(a["tokens"], dtype=np.uint32),
                    np.array(a["edges"], dtype=np.float32),
                )
                for a in document["attributes"]
            ),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("feature schema", document, f"is malformed: {error!r}") from error


def attribute_rows(slots: npt.NDArray[np.uint32], schema: FeatureSchema) -> npt.NDArray[np.int32]:
    """Stored slots (K, A) uint32 -> rows of the attribute table (K, A) int32, 0 = absent."""
    out = np.zeros(slots.shape, dtype=np.int32)
    column, first = 0, 1
    for v in schema.vocabularies:
        block = slots[:, column : column + v.field.slots]
        if v.field.kind == "numeric":
            numbers = np.ascontiguousarray(block).view(np.float32)
            local = 1 + np.searchsorted(v.edges, numbers, side="right")
            present = ~np.isnan(numbers)
        else:
            place = np.searchsorted(v.tokens, block)
            found = place < len(v.tokens)
            found[found] = v.tokens[place[found]] == block[found]
            local = np.where(found, place + 1, 0)
            present = block != 0
        out[:, column : column + v.field.slots] = np.where(present, first + local, 0)
        column += v.field.slots
        first += v.size
    return out


def item_inputs(
    records: Rows,
    found: npt.NDArray[np.bool_],
    id_rows: Rows,
    id_found: npt.NDArray[np.bool_],
    schema: FeatureSchema,
) -> dict[str, npt.NDArray[Any]]:
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
    attributes = np.zeros((rows + 1, records.dtype["attributes"].shape[0]), dtype=np.int32)
    attributes[1:] = np.where(alive[:, None], attribute_rows(records["attributes"], schema), 0)
    id_codes = np.zeros((rows + 1, schema.id_dim), dtype=np.int8)
    id_codes[1:] = id_rows["codes"]
    id_scale = np.zeros(rows + 1, dtype=np.float32)
    id_scale[1:] = id_rows["scale"]
    id_known = np.zeros(rows + 1, dtype=np.bool_)
    id_known[1:] = id_found
    return {
        "codes": codes,
        "inv_norm": inv_norm,
        "attributes": attributes,
        "id_codes": id_codes,
        "id_scale": id_scale,
        "id_known": id_known,
    }
