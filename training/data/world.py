"""A small world of its own for those who bring no data: seeded, drawn in seconds, offline.

Furnishings with drawn pictures and written titles; users with slowly turning tastes for what pictures
show and what titles say; items that arrive over time, the last ones after everything that trains.
Written in the format of docs/data.md. The truth behind it is returned, never written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from training.data.progress import Progress, silent
from training.data.world_items import CATEGORIES, ROOMS, WorldItems, draw_items, maker_name
from training.data.world_pictures import draw_pictures
from training.data.world_users import WorldLog, draw_log

MIN_ITEMS, MIN_USERS, MIN_IMPRESSIONS = 50, 2, 500
MAX_ITEMS, MAX_IMPRESSIONS = 100_000, 10_000_000
_STEPS = 100
_PICTURE_STEPS, _LOG_STEPS = 60, 35  # of _STEPS


@dataclass(frozen=True, eq=False)
class World:
    """What only its maker knows: for checks of the world itself, not for training."""

    features: npt.NDArray[np.float64]  # (I, V) everything that tastes are about
    affinity: npt.NDArray[np.float64]  # (R,) of the user for the item, in the order of the file


def draw_world(
    path: Path,
    *,
    items: int = 2_400,
    users: int = 1_000,
    impressions: int = 100_000,
    seed: int = 0,
    progress: Progress = silent,
) -> World:
    """Write items.parquet and interactions.parquet into `path` (made if absent); equal seeds, equal bytes."""
    for name, value, low, high in (
        ("items", items, MIN_ITEMS, MAX_ITEMS),
        ("users", users, MIN_USERS, MAX_IMPRESSIONS),
        ("impressions", impressions, MIN_IMPRESSIONS, MAX_IMPRESSIONS),
        ("seed", seed, 0, 2**63),
    ):
        if not low <= value <= high:
            raise InvalidInput(name, value, f"must lie between {low} and {high}")
    path.mkdir(parents=True, exist_ok=True)
    # a stream each, so that a change to one part leaves the others as they were
    traits, words, light, people = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))

    def part(first: int, share: int) -> Progress:
        return lambda done, total: progress(first + share * done // total, _STEPS)

    drawn = draw_items(items, traits)
    pictures = draw_pictures(drawn, light, part(0, _PICTURE_STEPS))
    log = draw_log(drawn, users, impressions, people, part(_PICTURE_STEPS, _LOG_STEPS))
    pq.write_table(_items_table(drawn, pictures, log, words), path / "items.parquet", compression="zstd")
    pq.write_table(_log_table(log), path / "interactions.parquet", compression="zstd")
    progress(_STEPS, _STEPS)
    return World(drawn.features(), log.affinity)


def _items_table(
    items: WorldItems, pictures: list[bytes], log: WorldLog, words: np.random.Generator
) -> pa.Table:
    return pa.table(
        {
            "item_id": [_item_id(row) for row in range(len(items))],
            "title": items.titles(words),
            "description": items.descriptions(words),
            "category": [CATEGORIES[c] for c in items.category],
            "rooms": ["|".join(ROOMS[k] for k in np.flatnonzero(row)) for row in items.rooms],
            "maker": [maker_name(number) for number in items.maker],
            "price": items.price,
            "available_at": log.arrivals,
            "image": pa.array(pictures, type=pa.binary()),
        }
    )


def _log_table(log: WorldLog) -> pa.Table:
    names = pa.array([_item_id(row) for row in range(len(log.arrivals))])
    people = pa.array([f"user-{number:05d}" for number in range(int(log.users.max()) + 1)])
    return pa.table(
        {
            "user_id": people.take(pa.array(log.users)),
            "item_id": names.take(pa.array(log.items)),
            "timestamp": log.timestamps,
            "label": log.labels,
            "request_id": log.requests,
        }
    )


def _item_id(row: int) -> str:
    return f"item-{row:05d}"
