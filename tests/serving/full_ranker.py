"""A ranker that reads every optional input, untrained, as training would export it; its scores by torch.

The oracle gathers stored bytes by itself: it shares the encoding of columns with serving, not the assembly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import ID_INT8, decode_id_rows, encode_id_rows, id_row_dtype, quantise_absmax
from contracts.features import GRAPH_OUTPUTS, assemble, context_columns, item_inputs
from contracts.items import AttributeField, token_hash
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import REFERENCE, RankerSpec
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema, FieldEncoding, encode_columns
from contracts.space import Space
from param_server.id_rows import write_id_rows
from tests.serving.conftest import HISTORY, ID_DIM, SPACE, WITH_ID_ROW
from training.graph import write_graph
from training.literal.ranker import LiteralRanker
from training.models.columns import AttributeTable
from training.models.config import ContentConfig, RankerConfig
from training.models.items import ItemContentConfig, ItemRows
from training.models.query import QueryConfig
from training.models.ranker import Ranker
from training.models.recency import RecencySimilarityConfig
from training.models.similarity import side_by_side
from training.models.view import Requests
from training.serving_graph.user_side import write_user_side
from training.serving_graph.write import write_serving_graph

Array = npt.NDArray[Any]
GENRE, PRICE = SPACE.attributes


def _tokens(field: str, *words: str) -> npt.NDArray[np.uint32]:
    return np.array(sorted(token_hash(field, word) for word in words), np.uint32)


SCHEMA = FeatureSchema(
    HISTORY,
    ID_DIM,
    items=(
        FieldEncoding(GENRE, "vocabulary", _tokens("genre", "Crime", "Comedy")),
        FieldEncoding(PRICE, "log", mean=1.5, std=0.8),
    ),
    user=(
        FieldEncoding(AttributeField("age", "numeric"), "standard", mean=40.0, std=12.0),
        FieldEncoding(AttributeField("tastes", "categorical", 3), "hash", buckets=64),
    ),
    context=(
        FieldEncoding(
            AttributeField("device", "categorical"), "vocabulary", _tokens("device", "tv", "phone")
        ),
        FieldEncoding(AttributeField("hour", "numeric"), "bins", edges=np.array([6, 12, 18], np.float32)),
    ),
    time_gaps=True,
    query=SPACE.modalities,
)


RECENT_AND_SOUGHT = (
    RecencySimilarityConfig(modalities=("text", "image"), starts=(0, 2, 6)),
    QueryConfig(modalities=("text", "image")),
)


def make_ranker(content: tuple[ContentConfig, ...] = RECENT_AND_SOUGHT) -> Ranker:
    """In eval mode, with weights as large as trained ones."""
    torch.set_num_threads(1)
    config = RankerConfig(
        modalities=side_by_side([(m.name, m.dim) for m in SPACE.modalities]),
        attributes=AttributeTable.of(SCHEMA.items),
        context=AttributeTable.of(SCHEMA.request_columns),
        id_dim=ID_DIM,
        attribute_dim=4,
        id_trust=True,
        item_content=ItemContentConfig(modalities=("fused",), dim=5),
        history_length=HISTORY,
        din_hidden=(9, 5),
        time_gaps=True,
        content=content,
        hidden=(16, 8),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        ranker = Ranker(config)
        with torch.no_grad():
            for parameter in ranker.parameters():
                parameter.copy_(parameter + 0.3 * torch.randn_like(parameter))
    return ranker.eval()


def make_bundle(directory: Path, ranker: Ranker, *, explains: bool = False, space: Space = SPACE) -> Bundle:
    """A sealed bundle in `directory` (created), with ID rows for the drawn world's items.

    explains: with the literal graph, as training exports it. space: of the layout of SPACE.
    """
    directory.mkdir(parents=True)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(len(WITH_ID_ROW), ID_DIM)).astype(np.float32)
    evidence = np.log1p(rng.integers(0, 5, len(WITH_ID_ROW))).astype(np.float32)
    write_id_rows(directory / "id_rows.parquet", list(WITH_ID_ROW), encode_id_rows(vectors, evidence))
    write_serving_graph(ranker, directory / "ranker.onnx")
    write_user_side(directory / "ranker.onnx", directory)
    if explains:
        letter = LiteralRanker(ranker)
        write_graph(letter, directory / REFERENCE, explained=letter)
    assembled = assemble([ScoreRequest(["a", "b"], [Behaviour("c", 5)], timestamp_ms=9)], SCHEMA)
    count = len(assembled.item_ids)
    records = np.zeros(count, SPACE.dtype)
    records["codes"] = rng.integers(-127, 128, records["codes"].shape)
    records["inv_norm"] = 1 / 300
    id_rows = encode_id_rows(vectors[:count], evidence[:count])
    known = np.ones(count, dtype=bool)
    inputs = {**item_inputs(records, known, id_rows, known, SCHEMA), **assembled.inputs()}
    outputs = OnnxModel(directory / "ranker.onnx").run(inputs, GRAPH_OUTPUTS)
    write_golden(directory, {"ranker": (inputs, outputs)})
    spec = RankerSpec(ranker.config.to_dict(), space, SCHEMA, len(WITH_ID_ROW))
    return seal(directory, "ranker", spec.to_json())


def offline(
    ranker: Ranker,
    request: ScoreRequest,
    records: Mapping[str, bytes],
    id_rows: Mapping[str, bytes],
    now_ms: int,
) -> Array:
    """Scores (N,) float32 by torch from stored bytes; NaN where neither record nor ID row exists."""
    with torch.inference_mode():
        logit = ranker(*gathered(request, records, id_rows, now_ms)).logit[0]
    known = np.array([c in records or c in id_rows for c in request.candidates])
    scores: Array = np.where(known, torch.sigmoid(logit).numpy(), np.nan)
    return scores


def gathered(
    request: ScoreRequest, records: Mapping[str, bytes], id_rows: Mapping[str, bytes], now_ms: int
) -> tuple[ItemRows, Requests]:
    """What the ranker reads of one request, gathered from stored bytes."""
    history = list(request.behaviours)[-HISTORY:]
    names = ["", *request.candidates, *(b.item_id for b in history)]  # one row each, shared or not
    content, ids = np.zeros(len(names), SPACE.dtype), np.zeros(len(names), id_row_dtype(ID_INT8, ID_DIM))
    for row, name in enumerate(names):
        if name in records:
            content[row] = np.frombuffer(records[name], SPACE.dtype)[0]
        if name in id_rows:
            ids[row] = np.frombuffer(id_rows[name], ids.dtype)[0]
    found = np.array([name in records for name in names])
    columns = encode_columns(content["attributes"], SCHEMA.items)
    rows = ItemRows(
        codes=torch.from_numpy(content["codes"].copy()),
        inv_norm=torch.from_numpy(content["inv_norm"].copy()),
        attributes=torch.from_numpy(np.where(found[:, None], columns.rows, 0)),
        id_vectors=torch.from_numpy(decode_id_rows(ids)),
        id_known=torch.tensor([name in id_rows for name in names]),
        id_evidence=torch.from_numpy(ids["evidence"].astype(np.float32)),
        attribute_values=torch.from_numpy(columns.values),
    )
    at = now_ms if request.timestamp_ms is None else request.timestamp_ms
    gaps = [0 if b.timestamp_ms is None else _bucket(at - b.timestamp_ms) for b in history]
    context, context_values = context_columns([request.user], [request.context], SCHEMA)
    codes, inv_norm = [], []
    for m in SPACE.modalities:
        code, _ = quantise_absmax(np.array([request.query.get(m.name) or [0.0] * m.dim], np.float32))
        norm = float(np.linalg.norm(code.astype(np.float64)))
        codes.append(code)
        inv_norm.append(1 / norm if norm else 0.0)
    n, t = len(request.candidates), len(history)
    pad = [0] if not t else []
    return rows, Requests(
        candidates=torch.arange(1, n + 1, dtype=torch.int32)[None],
        behaviours=torch.tensor([pad or list(range(n + 1, n + t + 1))], dtype=torch.int32),
        behaviour_mask=torch.tensor([[False] if pad else [True] * t]),
        gaps=torch.tensor([pad or gaps], dtype=torch.int32),
        context=torch.from_numpy(context),
        context_values=torch.from_numpy(context_values),
        query_codes=torch.from_numpy(np.concatenate(codes, axis=1)),
        query_inv_norm=torch.tensor([inv_norm], dtype=torch.float32),
    )


def _bucket(elapsed_ms: int) -> int:
    return min(31, (max(0, elapsed_ms) // 1000 + 1).bit_length())
