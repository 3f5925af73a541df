"""The drawn world's users: drifting tastes, what they are shown, and what they click.

click ~ Bernoulli(sigmoid(bias + affinity + quality)), affinity = features of the item . the user's taste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.progress import Progress, silent
from training.data.world_items import GROUPS, WorldItems

START = 1_700_000_000  # seconds
DAYS = 60
MIN_CANDIDATES, MAX_CANDIDATES = 5, 10
CLICK_RATE = 0.28
NEW_SHARE = 0.12  # of the items: they arrive after the val cut
_FIRST_SHARE = 0.4  # of the items: there from the start
_EARLY_END, _LATE_START, _LATE_END = 0.75, 0.9, 0.96  # shares of the rows between which items arrive
_FRESH_S, _FRESH_BOOST = 4 * 86_400, 3.0  # an item is shown more while it is young
_AFFINITY_STD = 3.0  # on the logit
_COMMON_STD = 0.2  # of it, what all users share
_CARE = 0.6  # shape of the gamma draw: the smaller, the fewer groups of traits a user cares for
_DRIFT = np.pi / 5  # how far a taste turns over the whole time
_CHUNK = 1_024

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WorldLog:
    """R impressions in time order."""

    users: Integers  # (R,)
    items: Integers  # (R,)
    timestamps: Integers  # (R,) seconds
    labels: npt.NDArray[np.int8]  # (R,)
    requests: Integers  # (R,)
    affinity: Floats  # (R,) the truth
    arrivals: Integers  # (I,) seconds at which each item arrived


def draw_log(
    items: WorldItems, users: int, impressions: int, rng: np.random.Generator, progress: Progress = silent
) -> WorldLog:
    """`impressions` rows in requests of MIN_CANDIDATES to MAX_CANDIDATES (the last one may be shorter)."""
    sizes = rng.integers(MIN_CANDIDATES, MAX_CANDIDATES + 1, size=impressions // MIN_CANDIDATES + 1)
    ends = np.minimum(np.cumsum(sizes), impressions)
    ends = ends[: int(np.searchsorted(ends, impressions)) + 1]
    sizes = np.diff(ends, prepend=0)
    times = START + np.sort(rng.choice(DAYS * 86_400, size=len(sizes), replace=False))
    visitors = _visitors(users, len(sizes), rng)
    arrivals = _arrivals(len(items), times, ends, rng)
    shown = _exposure(items, arrivals, times, rng, progress)
    drawn = np.arange(MAX_CANDIDATES) < sizes[:, None]
    affinity = _affinity(items, users, visitors, shown, times, rng)[drawn]
    rows = shown[drawn]
    requests = np.repeat(np.arange(len(sizes)), sizes)
    logit = affinity + items.quality[rows]
    clicks = rng.random(len(rows)) < _sigmoid(logit + _bias(logit))
    return WorldLog(
        users=visitors[requests],
        items=rows,
        timestamps=times[requests],
        labels=clicks.astype(np.int8),
        requests=requests,
        affinity=affinity,
        arrivals=arrivals,
    )


def _visitors(users: int, requests: int, rng: np.random.Generator) -> Integers:
    """(requests,): every user where there is room, then some users more often than others."""
    activity = rng.lognormal(0, 0.6, users)
    further = rng.choice(users, size=max(requests - users, 0), p=activity / activity.sum())
    return rng.permutation(np.concatenate([rng.permutation(users)[:requests], further]))


def _arrivals(count: int, times: Integers, ends: Integers, rng: np.random.Generator) -> Integers:
    """(I,) seconds: the first are there from the start, the last arrive after the val cut, none in val."""
    share = np.zeros(count)
    first, new = int(_FIRST_SHARE * count), max(1, round(NEW_SHARE * count))
    share[first : count - new] = np.sort(rng.uniform(0, _EARLY_END, count - new - first))
    share[count - new :] = np.sort(rng.uniform(_LATE_START, _LATE_END, new))
    # the request at which a share of the rows is over; the val cut itself belongs to the test split
    request = np.searchsorted(ends, share * ends[-1], side="right")
    return np.where(share > 0, times[np.minimum(request, len(times) - 1)], START)


def _exposure(
    items: WorldItems, arrivals: Integers, times: Integers, rng: np.random.Generator, progress: Progress
) -> Integers:
    """(requests, MAX_CANDIDATES): distinct items that have arrived, popular and young ones more often."""
    popularity = 0.6 * items.quality + rng.normal(0, 0.7, len(items))
    out = np.empty((len(times), MAX_CANDIDATES), dtype=np.int64)
    for start in range(0, len(times), _CHUNK):
        now = times[start : start + _CHUNK, None]
        age = now - arrivals[None, :]
        young = (age < _FRESH_S) & (arrivals[None, :] > START)
        weight = np.where(age >= 0, popularity + young * np.log(_FRESH_BOOST), -np.inf)
        # the largest of log weight + Gumbel noise are a draw without replacement
        scores = weight - np.log(rng.standard_exponential(weight.shape))
        best = np.argpartition(-scores, MAX_CANDIDATES, axis=1)[:, :MAX_CANDIDATES]
        order = np.take_along_axis(scores, best, axis=1).argsort(axis=1)
        out[start : start + _CHUNK] = np.take_along_axis(best, order, axis=1)
        progress(min(start + _CHUNK, len(times)), len(times))
    return out


def _affinity(
    items: WorldItems,
    users: int,
    visitors: Integers,
    shown: Integers,
    times: Integers,
    rng: np.random.Generator,
) -> Floats:
    """(requests, MAX_CANDIDATES) on the logit."""
    features = items.features()
    common = rng.normal(0, _COMMON_STD, features.shape[1]) * _column_scale(features)
    before, after = (_tastes(users, features, rng) for _ in range(2))
    angle = (_DRIFT * (times - START) / (DAYS * 86_400))[:, None]
    now = common + np.cos(angle) * before[visitors] + np.sin(angle) * after[visitors]
    # without BLAS, so that the sums do not depend on its threads
    return np.asarray(np.einsum("rv,rnv->rn", now, features[shown]))


def _tastes(users: int, features: Floats, rng: np.random.Generator) -> Floats:
    """(users, V): normal weights; each user cares for some groups more than for others."""
    care = np.repeat(rng.gamma(_CARE, size=(users, len(GROUPS))), [w for w, _ in GROUPS.values()], axis=1)
    weights = rng.normal(size=(users, features.shape[1])) * np.sqrt(care / _CARE) * _column_scale(features)
    spread = np.sqrt(np.einsum("uv,v->u", weights**2, features.var(axis=0)))
    return np.asarray(weights * (_AFFINITY_STD * np.sqrt(1 - _COMMON_STD**2) / spread)[:, None])


def _column_scale(features: Floats) -> Floats:
    """(V,): weights of unit variance times this give each group its share of the affinity's variance."""
    shares = np.repeat([s for _, s in GROUPS.values()], [w for w, _ in GROUPS.values()])
    group = np.repeat(np.arange(len(GROUPS)), [w for w, _ in GROUPS.values()])
    variance = np.bincount(group, weights=features.var(axis=0))[group]
    return np.asarray(_AFFINITY_STD * np.sqrt(shares / variance))


def _bias(logit: Floats) -> float:
    """The constant that makes the mean click probability CLICK_RATE, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logit + middle).mean() < CLICK_RATE else (low, middle)
    return (low + high) / 2


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)))
