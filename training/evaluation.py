"""Scores of whole splits, and what they are worth: AUC, GAUC, logloss over all, warm and new items."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from contracts.codec import Rows, decode_id_rows, encode_id_rows
from contracts.errors import InvalidInput
from training.batches import gather, make_batch
from training.data.samples import Samples
from training.item_table import ItemTable
from training.metrics import auc, gauc, logloss
from training.models.ranker import Ranker
from training.resident import send_requests, send_rows

METRICS = ("auc", "gauc_user", "gauc_request", "logloss")
GROUPS = ("all", "warm", "new")
BATCH_ROWS = 3072  # candidate rows per batch: bounds memory whatever a split's size

Metrics = dict[str, float | int | None]
Report = dict[str, Metrics]  # group -> metric


@dataclass(frozen=True, eq=False)
class IdVectors:
    """The trained ID table. vectors: (I+1, d) float32; known: (I+1,) bool, False = out of vocabulary.

    evidence: (I+1,) float32, log1p of the training examples behind each.
    """

    vectors: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    evidence: npt.NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Hex digest of all three arrays."""
        parts = (self.vectors, self.known, self.evidence)
        return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()

    def quantised(self) -> IdVectors:
        """The vectors that serving reads: through int8 ID rows and back."""
        return IdVectors(decode_id_rows(self.rows()), self.known, self.evidence)

    def rows(self) -> Rows:
        """(I+1,) int8 ID rows; all zero, version 0, where the item has none."""
        rows = encode_id_rows(self.vectors, self.evidence)
        rows[~self.known] = np.zeros((), dtype=rows.dtype)
        return rows


def predict(
    model: Ranker,
    samples: Samples,
    chosen: npt.NDArray[np.int64],
    items: ItemTable,
    ids: IdVectors,
    *,
    batch_rows: int = BATCH_ROWS,
) -> npt.NDArray[np.float32]:
    """Logits of the samples `chosen`: (C,) -> (C, N) float32, 0 at padding. Leaves the model in eval mode."""
    model.eval()
    device = model.items.out_of_vocabulary.device
    out = np.zeros((len(chosen), samples.candidates.shape[1]), dtype=np.float32)
    batch = max(1, batch_rows // samples.candidates.shape[1])
    with torch.inference_mode():
        for at in range(0, len(chosen), batch):
            b = make_batch(samples, chosen[at : at + batch], model.config.history_length, items)
            vectors = torch.from_numpy(ids.vectors[b.rows])
            rows = gather(items, b.rows, vectors, ids.known, ids.evidence, b.versions)
            rows = send_rows(rows, device)
            logit = model(rows, send_requests(b.requests, device)).logit.cpu()
            width = b.candidates.shape[1]
            out[at : at + batch, :width] = torch.where(b.candidate_mask, logit, 0.0).numpy()
    return out


def evaluate(
    logits: npt.NDArray[np.float32],
    samples: Samples,
    chosen: npt.NDArray[np.int64],
    new: npt.NDArray[np.bool_],
) -> Report:
    """The report of one split: each group of GROUPS with METRICS and its `rows`.

    logits: (C, N) of the samples `chosen`; new: (I+1,) bool by row of the item table. A group holds the
    candidates that are new, or not, or all; a metric that it cannot give (one class only) is None.
    """
    mask = samples.candidate_mask[chosen]
    if logits.shape != mask.shape:
        raise InvalidInput("logits", logits.shape, f"must have shape {mask.shape}")
    labels, scores = samples.labels[chosen][mask], logits[mask]
    sample = np.nonzero(mask)[0]
    users, requests = samples.users[chosen][sample], samples.requests[chosen][sample]
    return {
        group: _metrics(labels[inside], scores[inside], users[inside], requests[inside])
        for group, inside in groups_of(samples, chosen, new).items()
    }


def groups_of(
    samples: Samples, chosen: npt.NDArray[np.int64], new: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Each group of GROUPS: (rows,) bool over the samples' candidates, padding left out."""
    is_new = new[samples.candidates[chosen][samples.candidate_mask[chosen]]]
    return {"all": np.ones_like(is_new), "warm": ~is_new, "new": is_new}


def _metrics(
    labels: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    users: npt.NDArray[np.int32],
    requests: npt.NDArray[np.int64],
) -> Metrics:
    values = {
        "auc": auc(labels, logits),
        "gauc_user": gauc(labels, logits, users),
        "gauc_request": gauc(labels, logits, requests),
        "logloss": logloss(labels, sigmoid(logits)),
    }
    return {"rows": len(labels), **{k: None if math.isnan(v) else v for k, v in values.items()}}


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Logits -> probabilities, without overflow."""
    x = logits.astype(np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))
