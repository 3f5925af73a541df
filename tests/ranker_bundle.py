"""A real ranker bundle with a tiny graph of exactly the documented signature, and its oracle in numpy.

    logit = bias + content * mean over modalities and behaviours of cos(candidate, behaviour)
                 + id * (candidate's row . mean of the behaviours' rows) + sum of attribute weights

The oracle reads stored bytes and knows nothing of contracts.features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.export import Dim

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import encode_id_rows
from contracts.features import GRAPH_OUTPUTS, REQUIRED_INPUTS, assemble, item_inputs
from contracts.items import token_hash
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import RankerSpec
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema, FieldEncoding
from contracts.space import Space
from param_server.id_rows import write_id_rows

Array = npt.NDArray[Any]
TOKENS = ("Crime", "Drama", "Comedy")
EDGES = (1.0, 10.0)


class TinyRanker(nn.Module):
    """dims: of the modalities; attribute_weights: one per row of the attribute table."""

    def __init__(
        self, dims: tuple[int, ...], bias: float, content: float, identity: float, oov: Array, weights: Array
    ) -> None:
        super().__init__()
        self.dims, self.bias, self.content, self.identity = dims, bias, content, identity
        self.register_buffer("oov", torch.from_numpy(oov))
        self.register_buffer("weights", torch.from_numpy(weights))

    def forward(
        self,
        codes: Tensor,
        inv_norm: Tensor,
        attributes: Tensor,
        id_codes: Tensor,
        id_scale: Tensor,
        id_known: Tensor,
        candidates: Tensor,
        behaviours: Tensor,
        behaviour_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        candidates, behaviours = candidates.long(), behaviours.long()  # ONNX gathers by int64 rows
        count = behaviour_mask.sum(dim=1, keepdim=True).clamp(min=1).float()  # (B, 1)
        mask = behaviour_mask.float()
        mean_cosine = torch.zeros_like(candidates, dtype=torch.float32)
        start = 0
        for m, dim in enumerate(self.dims):
            rows = codes[:, start : start + dim].float()
            dots = torch.einsum("bnd,btd->bnt", rows[candidates], rows[behaviours])
            scale = inv_norm[:, m]
            cosine = dots * scale[candidates].unsqueeze(2) * scale[behaviours].unsqueeze(1)
            mean_cosine = mean_cosine + (cosine * mask.unsqueeze(1)).sum(dim=2) / count
            start += dim
        vectors = torch.where(
            id_known.unsqueeze(1), id_codes.float() * id_scale.unsqueeze(1), self.get_buffer("oov")
        )
        taste = (vectors[behaviours] * mask.unsqueeze(2)).sum(dim=1) / count  # (B, d)
        identity = torch.einsum("bnd,bd->bn", vectors[candidates], taste)
        shown = self.get_buffer("weights")[attributes.long()].sum(dim=1)  # (K,)
        logit = (
            self.bias
            + self.content * mean_cosine / len(self.dims)
            + self.identity * identity
            + shown[candidates]
        )
        return logit, torch.sigmoid(logit)


def schema_of(space: Space, history_length: int, id_dim: int) -> FeatureSchema:
    """Vocabularies over TOKENS and EDGES for whatever attribute fields the space has."""
    return FeatureSchema(
        history_length,
        id_dim,
        tuple(
            FieldEncoding(f, "bins", edges=np.array(EDGES, "f4"))
            if f.kind == "numeric"
            else FieldEncoding(f, "vocabulary", np.array(sorted(token_hash(f.name, t) for t in TOKENS), "u4"))
            for f in space.attributes
        ),
    )


def make_ranker_bundle(
    directory: Path,
    space: Space,
    item_ids: Sequence[str],
    *,
    bias: float = -0.25,
    id_dim: int = 8,
    history_length: int = 16,
    seed: int = 0,
) -> Bundle:
    """A sealed bundle in `directory` (created). item_ids: those with a trained ID row."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    schema = schema_of(space, history_length, id_dim)
    vectors = rng.normal(size=(len(item_ids), id_dim)).astype(np.float32)
    evidence = np.log1p(rng.integers(1, 100, len(item_ids))).astype(np.float32)
    write_id_rows(directory / "id_rows.parquet", list(item_ids), encode_id_rows(vectors, evidence))
    weights = np.concatenate([[0], rng.normal(size=schema.item_rows - 1)]).astype(np.float32)
    oov = rng.normal(size=id_dim).astype(np.float32)
    graph = _export(space.dims, space.attribute_slots, bias, oov.tobytes(), weights.tobytes())
    (directory / "ranker.onnx").write_bytes(graph)
    golden_inputs = _golden_inputs(space, schema, rng)
    outputs = OnnxModel(directory / "ranker.onnx").run(golden_inputs, GRAPH_OUTPUTS)
    write_golden(directory, {"ranker": (golden_inputs, outputs)})
    model = {
        "bias": bias,
        "content": 1.5,
        "identity": 0.2,
        "oov": [float(x) for x in oov],
        "weights": [float(x) for x in weights],
    }
    spec = RankerSpec(model, space, schema, len(item_ids))
    return seal(directory, "ranker", spec.to_json())


def recompute(
    bundle: Bundle,
    space: Space,
    request: ScoreRequest,
    records: Mapping[str, bytes],
    id_rows: Mapping[str, bytes],
) -> Array:
    """Scores (N,) float64 of one request from stored bytes; NaN where neither record nor ID row exists."""
    content = bundle.manifest.content
    model, schema = content["model"], content["schema"]
    history = [b.item_id for b in request.behaviours][-schema["history_length"] :]

    def modalities(item_id: str) -> list[Array]:
        if item_id not in records:
            return [np.zeros(dim) for dim in space.dims]
        row = np.frombuffer(records[item_id], space.dtype)[0]
        parts = np.split(row["codes"].astype(np.float64), np.cumsum(space.dims)[:-1])
        return [part / max(np.linalg.norm(part), 1e-12) for part in parts]

    def vector(item_id: str) -> Array:
        if item_id not in id_rows:
            return np.array(model["oov"])
        raw = id_rows[item_id]  # version u8, codec u8, evidence f16, scale f32, i8 codes
        return np.frombuffer(raw, "i1", offset=8) * float(np.frombuffer(raw, "<f4", 1, offset=4)[0])

    def shown(item_id: str) -> float:
        if item_id not in records:
            return 0.0
        slots = np.frombuffer(records[item_id], space.dtype)[0]["attributes"]
        total, column, first = 0.0, 0, 1
        for f in schema["items"]:
            for slot in slots[column : column + f["slots"]]:
                if f["kind"] == "numeric":
                    number = np.array([slot], "u4").view("f4")[0]
                    local = None if np.isnan(number) else sum(e <= number for e in f["edges"])
                else:
                    local = None if slot == 0 else 1 + f["tokens"].index(slot) if slot in f["tokens"] else 0
                total += 0.0 if local is None else model["weights"][first + local]
            column += f["slots"]
            first += 1 + (len(f["edges"]) if f["kind"] == "numeric" else len(f["tokens"]))
        return total

    taste = sum((vector(h) for h in history), np.zeros(schema["id_dim"])) / max(1, len(history))
    scores = []
    for item_id in request.candidates:
        if item_id not in records and item_id not in id_rows:
            scores.append(np.nan)
            continue
        cosines = [
            sum(float(a @ b) for a, b in zip(modalities(item_id), modalities(h), strict=True))
            for h in history
        ]
        logit = (
            model["bias"]
            + model["content"] * sum(cosines) / max(1, len(history)) / len(space.dims)
            + model["identity"] * float(vector(item_id) @ taste)
            + shown(item_id)
        )
        scores.append(1 / (1 + np.exp(-logit)))
    return np.array(scores)


@lru_cache(maxsize=16)
def _export(dims: tuple[int, ...], slots: int, bias: float, oov: bytes, weights: bytes) -> bytes:
    torch.set_num_threads(1)
    module = TinyRanker(
        dims, bias, 1.5, 0.2, np.frombuffer(oov, "f4").copy(), np.frombuffer(weights, "f4").copy()
    ).eval()
    id_dim = len(oov) // 4
    k, b, n, t = 5, 2, 3, 4
    example = (
        torch.zeros(k, sum(dims), dtype=torch.int8),
        torch.zeros(k, len(dims)),
        torch.zeros(k, slots, dtype=torch.int32),
        torch.zeros(k, id_dim, dtype=torch.int8),
        torch.zeros(k),
        torch.zeros(k, dtype=torch.bool),
        torch.zeros(b, n, dtype=torch.int32),
        torch.zeros(b, t, dtype=torch.int32),
        torch.zeros(b, t, dtype=torch.bool),
    )
    rows, batch, wide, long = Dim("K"), Dim("B"), Dim("N"), Dim("T")
    shapes = ({0: rows},) * 6 + ({0: batch, 1: wide}, {0: batch, 1: long}, {0: batch, 1: long})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=20,
            dynamic_shapes=shapes,
            input_names=list(REQUIRED_INPUTS),
            output_names=list(GRAPH_OUTPUTS),
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def _golden_inputs(space: Space, schema: FeatureSchema, rng: np.random.Generator) -> dict[str, Array]:
    requests = [
        ScoreRequest([f"c{i}" for i in range(4)], [Behaviour(f"b{j}") for j in range(length)])
        for length in (0, 3)
    ]
    assembled = assemble(requests, schema)
    count = len(assembled.item_ids)
    records = np.zeros(count, dtype=space.dtype)
    records["codes"] = rng.integers(-127, 128, records["codes"].shape)
    records["inv_norm"] = 1 / 500
    id_rows = encode_id_rows(
        rng.normal(size=(count, schema.id_dim)).astype(np.float32), np.ones(count, dtype=np.float32)
    )
    known = np.arange(count) % 3 > 0
    return {**item_inputs(records, known, id_rows, ~known, schema), **assembled.inputs()}
