"""What users and requests say beside items, raw and as one schema reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema, FieldEncoding, encode_columns
from training.data.context import RequestColumns, Slots
from training.data.queries import Queries


@dataclass(frozen=True, eq=False)
class Said:
    """users: by user; context: by request; queries: what was searched for; asked: (Q,) its row by request."""

    users: RequestColumns | None = None
    context: RequestColumns | None = None
    queries: Queries | None = None
    asked: npt.NDArray[np.int64] | None = None

    def request(self, user: int, request: int) -> dict[str, Any]:
        """The arguments of a ScoreRequest that say the same: user, context, query."""
        query = -1 if self.asked is None else int(self.asked[request])
        return {
            "user": {} if self.users is None else self.users.values(user),
            "context": {} if self.context is None else self.context.values(request),
            "query": {} if self.queries is None or query < 0 else self.queries.vectors(query),
        }

    def read_by(self, schema: FeatureSchema) -> RequestInputs:
        """Raises InvalidInput where the schema reads what is not there."""
        codes = inv_norm = None
        if schema.query:
            if self.queries is None or self.asked is None:
                raise InvalidInput("schema.query", [m.name for m in schema.query], "the data has no queries")
            codes, inv_norm = self.queries.rows(schema.query)
        return RequestInputs(
            time_gaps=schema.time_gaps,
            fields=schema.request_columns,
            user_slots=_slots(self.users, schema.user, "user"),
            context_slots=_slots(self.context, schema.context, "context"),
            query_codes=codes,
            query_inv_norm=inv_norm,
            asked=self.asked,
        )


@dataclass(frozen=True, eq=False)
class RequestInputs:
    """As one schema reads it; nothing where it reads nothing. Slots are encoded batch by batch."""

    time_gaps: bool = False
    fields: tuple[FieldEncoding, ...] = ()
    user_slots: Slots | None = None  # (U, S_u)
    context_slots: Slots | None = None  # (Q, S_c)
    query_codes: npt.NDArray[np.int8] | None = None  # (K+1, D), the last row: no query
    query_inv_norm: npt.NDArray[np.float32] | None = None  # (K+1, M)
    asked: npt.NDArray[np.int64] | None = None  # (Q,) row of query_codes by request, -1 = no query

    def context(
        self, users: npt.NDArray[np.int32], requests: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
        """users, requests: (B,) -> context, context_values (B, C) as contracts.features.context_columns."""
        if not self.fields:
            return None
        blocks = [np.zeros((len(users), 0), dtype=np.uint32)]
        blocks += [] if self.user_slots is None else [self.user_slots[users]]
        blocks += [] if self.context_slots is None else [self.context_slots[requests]]
        columns = encode_columns(np.concatenate(blocks, axis=1), self.fields)
        return columns.rows, columns.values

    def query(
        self, requests: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
        """requests: (B,) -> query_codes (B, D), query_inv_norm (B, M) as contracts.features.query_rows."""
        if self.query_codes is None or self.query_inv_norm is None or self.asked is None:
            return None
        rows = self.asked[requests]
        return self.query_codes[rows], self.query_inv_norm[rows]


def _slots(columns: RequestColumns | None, fields: tuple[FieldEncoding, ...], where: str) -> Slots | None:
    if not fields:
        return None
    if columns is None:
        raise InvalidInput(f"schema.{where}", [f.field.name for f in fields], "the data has no such columns")
    return columns.slots_of(fields, where)
