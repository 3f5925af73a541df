"""How well a head finds what was chosen, on held-out pairs in one fixed gallery."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from training.item_features import Features, Rows
from training.models.fusion import EncoderHead
from training.recall import gains, mean_pairwise_cosine, ranks, recall
from training.recipes.pair_split import Pairs, PairSplit

Recalls = Mapping[str, Mapping[str, Mapping[int, float]]]  # part -> "query>item" -> k -> share
_GALLERY = 20_000
_COSINE_ITEMS = 2_000
_START_PAIRS = 2_000
_BATCH = 1_024
_LEVELS = (("fused", "fused"), ("image", "fused"), ("text", "text"), ("image", "image"))

Vectors = dict[str, npt.NDArray[np.float32]]
Gains = npt.NDArray[np.float64]


class HeadBench:
    """The gallery: every item that some pair chose, or as many of them as fit, drawn by seed."""

    def __init__(self, text: Features, image: Features, split: PairSplit, query: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        start = rng.permutation(split.trained)[:_START_PAIRS]
        parts = {"unseen": split.unseen, "seen": split.seen, "start": start}
        gallery = rng.permutation(np.unique(split.trained[:, 1]))[:_GALLERY]
        gallery = np.unique(np.concatenate([gallery, *(p[:, 1] for p in parts.values())]))
        rows = np.unique(np.concatenate([gallery, *(p.reshape(-1) for p in parts.values())]))
        self._parts = {name: _local(part, rows) for name, part in parts.items()}
        self._gallery: Rows = _local(gallery, rows)
        self._query = query
        self._count = len(rows)
        self._inputs = (
            torch.from_numpy(text.values[rows]),
            torch.from_numpy(image.values[rows]),
            torch.from_numpy(text.present[rows]),
            torch.from_numpy(image.present[rows]),
        )

    def gains(self, head: EncoderHead) -> Gains:
        """NDCG's term of each pair of unseen items (P,), which stops training; empty if none is held out."""
        return self._gains(head, "unseen" if len(self._parts["unseen"]) else "seen", self._query)

    def start_gains(self, head: EncoderHead) -> Gains:
        """NDCG's term of some trained pairs between fused vectors, for choices made before training."""
        return self._gains(head, "start", "fused")

    def start_vectors(self, head: EncoderHead) -> tuple[Vectors, Pairs]:
        """Vectors by modality, and the pairs of `start_gains` as rows of them."""
        return self._vectors(head), self._parts["start"]

    def recalls(self, head: EncoderHead) -> Recalls:
        """Recall at 1, 10 and 50 of both held-out parts, by the vectors compared."""
        vectors = self._vectors(head)
        return {
            name: {
                f"{query}>{item}": recall(ranks(vectors[query], vectors[item], pairs, self._gallery))
                for query, item in _LEVELS
            }
            for name, pairs in self._parts.items()
            if name != "start" and len(pairs)
        }

    def mean_cosines(self, head: EncoderHead) -> dict[str, float]:
        """By modality, over at most 2,000 items."""
        vectors = self._vectors(head)
        few = slice(None, None, max(1, -(-self._count // _COSINE_ITEMS)))
        return {name: mean_pairwise_cosine(values[few]) for name, values in vectors.items()}

    def _gains(self, head: EncoderHead, part: str, query: str) -> Gains:
        pairs = self._parts[part]
        if not len(pairs):
            return np.zeros(0)
        vectors = self._vectors(head)
        return gains(ranks(vectors[query], vectors["fused"], pairs, self._gallery))

    @torch.no_grad()
    def _vectors(self, head: EncoderHead) -> Vectors:
        head.eval()
        parts = [head(*(i[s : s + _BATCH] for i in self._inputs)) for s in range(0, self._count, _BATCH)]
        names = ("text", "image", "fused")
        if not parts:
            return {name: np.zeros((0, 1), dtype=np.float32) for name in names}
        return {name: torch.cat([p[n] for p in parts]).numpy() for n, name in enumerate(names)}


def _local(values: Pairs, rows: Rows) -> Pairs:
    """Catalogue rows -> their places in sorted `rows`."""
    return np.searchsorted(rows, values).astype(np.int64)
