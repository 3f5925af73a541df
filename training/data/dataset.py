"""A dataset that a user brings, or that training.data.world drew: one directory, checked on load.

docs/data.md describes the format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import InvalidInput
from training.data.catalogue import Catalogue, load_catalogue
from training.data.interactions import Interactions, load_interactions
from training.data.interest_pairs import InterestPairs, load_interest_pairs
from training.data.progress import Progress, silent

_STEPS = 6


@dataclass(frozen=True, eq=False)
class Dataset:
    """What training starts from."""

    catalogue: Catalogue
    interactions: Interactions
    interest_pairs: InterestPairs | None = None


def load_dataset(
    path: Path,
    text_fields: Sequence[str] | None = None,
    attribute_fields: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Dataset:
    """Read and check a data directory.

    text_fields, attribute_fields: columns of items.parquet, None to infer them (training.data.schema).
    Raises InvalidInput whose field is like `items.parquet: column 'title', row 12`; rows count from 0.
    """
    if not path.is_dir():
        raise InvalidInput("data directory", str(path), "is not a directory")
    catalogue = load_catalogue(path, text_fields, attribute_fields)
    progress(1, _STEPS)
    interactions = load_interactions(path, catalogue, lambda done, _: progress(1 + done, _STEPS))
    pairs = load_interest_pairs(path, catalogue)
    progress(_STEPS, _STEPS)
    return Dataset(catalogue, interactions, pairs)
