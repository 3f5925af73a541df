"""A comparison's data in small: tests.training.tiny with a fourth modality, and a fixed draw per number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.codec import decode_vectors, encode_records
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.item_table import item_table
from training.models.columns import AttributeTable
from training.results.log import Rows
from training.results.train import Prepared
from training.vocabularies import fit_vocabularies

HISTORY, ID_DIM = 8, 16


class TinySource:
    """Counts what it was asked to prepare."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []

    def prepared(self, draw: int, *, warm: bool) -> Prepared:
        self.asked.append((draw, warm))
        records = tiny.records(seed=draw)
        vectors = decode_vectors(records, tiny.SPACE.dims)
        widened = encode_records([*vectors, vectors[2]], records["sequence"], records["attributes"])
        new = self.new(draw)
        hidden = np.zeros_like(new) if warm else new
        fields = fit_vocabularies(widened[~hidden], tiny.SPACE.attributes)
        schema = FeatureSchema(HISTORY, ID_DIM, fields)
        return Prepared(
            samples=tiny.samples(),
            items=item_table(widened, np.ones(tiny.ITEMS, bool), hidden, schema),
            attributes=AttributeTable.of(schema.items),
            modalities=tuple((name, tiny.DIM) for name in ("text", "image", "fused", "loo")),
            space=tiny.SPACE.id,
            new=new,
        )

    def new(self, draw: int) -> npt.NDArray[np.bool_]:
        return tiny.NEW

    def rows(self) -> Rows:
        return Rows.of(tiny.samples())
