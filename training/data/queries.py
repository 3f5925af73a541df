"""What was searched for: queries.parquet, quantised as serving quantises a request's query vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.codec import inverse_norms, quantise_absmax
from contracts.errors import InvalidInput
from contracts.space import Modality
from training.data.table import as_text, is_list_of_numbers, read_table

QUERIES = "queries.parquet"


@dataclass(frozen=True, eq=False)
class Queries:
    """Q queries. codes: (Q, d_m) int8 and inv_norm: (Q,) float32 by modality name, 0 where one is absent."""

    row_of: dict[str, int] = field(repr=False)
    codes: Mapping[str, npt.NDArray[np.int8]]
    inv_norm: Mapping[str, npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.row_of)

    def vectors(self, row: int) -> dict[str, list[float]]:
        """What a score request sends to search for the same: its codes, which quantise to themselves."""
        given = [name for name in self.codes if self.inv_norm[name][row] > 0]
        return {name: self.codes[name][row].astype(np.float64).tolist() for name in given}

    def rows(self, modalities: Sequence[Modality]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """What contracts.features.query_rows gives: (Q+1, D) int8, (Q+1, M) float32, the last row: no query.

        Raises InvalidInput for a modality that the space lacks and for one of another width.
        """
        dims = {m.name: m.dim for m in modalities}
        codes = np.zeros((len(self) + 1, sum(dims.values())), dtype=np.int8)
        inv_norm = np.zeros((len(self) + 1, len(modalities)), dtype=np.float32)
        for name, block in self.codes.items():
            where = f"{QUERIES}: column '{name}'"
            if name not in dims:
                raise InvalidInput(where, name, f"is not one of the modalities {sorted(dims)}")
            if block.shape[1] != dims[name]:
                raise InvalidInput(where, block.shape[1], f"must have {dims[name]} numbers a row")
        start = 0
        for m, modality in enumerate(modalities):
            if modality.name in self.codes:
                codes[:-1, start : start + modality.dim] = self.codes[modality.name]
                inv_norm[:-1, m] = self.inv_norm[modality.name]
            start += modality.dim
        return codes, inv_norm


def load_queries(directory: Path) -> Queries | None:
    """queries.parquet of `directory`, None where there is none. InvalidInput names the cell."""
    path = directory / QUERIES
    if not path.exists():
        return None
    table = read_table(path)
    ids: list[str] = as_text(table.ids("query_id")).to_pylist()
    table.refuse_repeated("query_id")
    row_of = {query_id: row for row, query_id in enumerate(ids)}
    names = [n for n, v in table.columns.items() if is_list_of_numbers(v.type)]
    if not names:
        raise InvalidInput(table.name, sorted(table.columns), "has no column of vectors")
    codes: dict[str, npt.NDArray[np.int8]] = {}
    inv_norm: dict[str, npt.NDArray[np.float32]] = {}
    for name in names:
        vectors = table.vectors(name)
        codes[name], _ = quantise_absmax(vectors)
        inv_norm[name] = inverse_norms(codes[name])
    return Queries(row_of, codes, inv_norm)
