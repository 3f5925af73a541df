"""A dataset that a user brings, or that training.data.world drew: one directory, checked on load.

docs/data.md describes the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import InvalidInput
from contracts.schema import Encoding
from training.data.catalogue import Catalogue, load_catalogue
from training.data.context import RequestColumns, load_users
from training.data.interactions import SPLITS, Interactions, UnknownItems, load_interactions
from training.data.interest_pairs import InterestPairs, load_interest_pairs
from training.data.progress import Progress, silent
from training.data.queries import Queries, load_queries

_STEPS = 6


@dataclass(frozen=True, eq=False)
class Dataset:
    """What training starts from. users: by user of the log; report: counts, for people to read."""

    catalogue: Catalogue
    interactions: Interactions
    interest_pairs: InterestPairs | None = None
    users: RequestColumns | None = None
    queries: Queries | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def load_dataset(
    path: Path,
    text_fields: Sequence[str] | None = None,
    attribute_fields: Sequence[str] | None = None,
    progress: Progress = silent,
    *,
    user_columns: Sequence[str] | None = None,
    context_columns: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding] | None = None,
    unknown_items: UnknownItems = "refuse",
) -> Dataset:
    """Read and check a data directory.

    text_fields, attribute_fields: columns of items.parquet; user_columns: of users.parquet; context_columns:
    of interactions.parquet; None to infer them (training.data.schema), () for none. encodings: how columns
    of users and requests are read, by name. unknown_items: "exclude" leaves out and counts rows of items
    that items.parquet lacks.
    Raises InvalidInput whose field is like `items.parquet: column 'title', row 12`; rows count from 0.
    """
    if not path.is_dir():
        raise InvalidInput("data directory", str(path), "is not a directory")
    catalogue = load_catalogue(path, text_fields, attribute_fields)
    progress(1, _STEPS)
    queries = load_queries(path)
    log = load_interactions(
        path,
        catalogue,
        lambda done, _: progress(1 + done, _STEPS),
        queries=queries,
        context_columns=context_columns,
        encodings=encodings,
        unknown_items=unknown_items,
    )
    users = load_users(path, log.user_ids, user_columns, encodings or {})
    pairs = load_interest_pairs(path, catalogue)
    progress(_STEPS, _STEPS)
    report = _report(log)
    if users is not None:
        report["users_without_columns"] = users[1]
    return Dataset(catalogue, log, pairs, users[0] if users and users[0].fields else None, queries, report)


def _report(log: Interactions) -> dict[str, Any]:
    """Counts of what was read and left out."""
    present = np.bincount(log.users, minlength=len(log.user_ids)) > 0
    liking = np.bincount(log.users, weights=log.labels, minlength=len(log.user_ids)) > 0
    return {
        **log.report,
        "rows_with_imputed_time": 0 if log.imputed is None else int(log.imputed.sum()),
        "requests": int(log.requests.max()) + 1,
        "users": int(present.sum()),
        "users_without_positives": int((present & ~liking).sum()),
        "splits": {
            name: {
                "rows": int((log.splits == number).sum()),
                "positives": int(log.labels[log.splits == number].sum()),
            }
            for number, name in enumerate(SPLITS)
        },
    }
