"""What traffic looks like: popular items come up often, most histories are short and a few are long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from contracts.items import check_item_id
from contracts.request import Behaviour, ScoreRequest

IDS_VARIABLE = "REPCENTER_LOAD_IDS"
LONGEST_HISTORY = 64
FEWEST_CANDIDATES, MOST_CANDIDATES = 20, 200
_SKEW = 0.8  # Zipf exponent of popularity
_MEDIAN_HISTORY = 12.0
_DAY_MS = 86_400_000


def read_item_ids(path: str | Path) -> list[str]:
    """The ids of {"item_ids": […]}, most popular first, or InvalidInput that names the file."""
    try:
        document = json.loads(Path(path).read_bytes())
        item_ids = document["item_ids"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(IDS_VARIABLE, str(path), f"is not a JSON file with item_ids: {error!r}") from error
    if not isinstance(item_ids, list) or not item_ids:
        raise InvalidInput("item_ids", item_ids, "must be a list of at least one id")
    return [check_item_id(item_id, f"item_ids[{n}]") for n, item_id in enumerate(item_ids)]


class Traffic:
    """An endless, seeded stream of requests over a catalogue."""

    def __init__(self, item_ids: Sequence[str], seed: int = 0, scene: str = "default") -> None:
        self._item_ids = list(item_ids)
        self._rng = np.random.default_rng(seed)
        self._scene = scene
        weights = np.arange(1, len(item_ids) + 1, dtype=np.float64) ** -_SKEW
        self._cumulative = np.cumsum(weights / weights.sum())

    def request(self) -> ScoreRequest:
        """Histories of 0 to 64 behaviours (log-normal), 20 to 200 candidates (log-uniform)."""
        history = min(LONGEST_HISTORY, int(self._rng.lognormal(np.log(_MEDIAN_HISTORY), 1.0)))
        low, high = np.log(FEWEST_CANDIDATES), np.log(MOST_CANDIDATES + 1)
        count = int(np.exp(self._rng.uniform(low, high)))
        now_ms = 1_700_000_000_000
        ages_ms = np.sort(self._rng.integers(0, 90 * _DAY_MS, history))[::-1]
        return ScoreRequest(
            candidates=self._draw(count),
            behaviours=[
                Behaviour(item_id, now_ms - int(age))
                for item_id, age in zip(self._draw(history), ages_ms, strict=True)
            ],
            scene=self._scene,
            user_id=f"load-{int(self._rng.integers(1_000_000))}",
        )

    def _draw(self, count: int) -> list[str]:
        places: npt.NDArray[np.intp] = np.searchsorted(self._cumulative, self._rng.random(count))
        last = len(self._item_ids) - 1
        return [self._item_ids[min(place, last)] for place in places.tolist()]
