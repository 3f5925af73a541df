"""The log of one run: which requests it trains on, and which it is measured on."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput
from training.data.dataset import Dataset
from training.data.holdout import new_items
from training.data.interactions import TEST, TRAIN, VAL
from training.data.samples import Samples, build_samples
from training.results.runs import Settings

TUNING_DRAW = 1_000  # first draw of new items for choices: none that is reported
_TUNING_VAL = 0.03  # share of the train requests, the latest, that chooses the step while tuning


def measured_dataset(dataset: Dataset, settings: Settings) -> Dataset:
    """The dataset itself; while tuning, one whose test split is the validation split.

    The real test rows are gone then, and the latest train requests choose the step.
    """
    if not settings.tuning:
        return dataset
    log = dataset.interactions
    kept = log.splits != TEST
    splits = np.where(log.splits == VAL, TEST, log.splits).astype(np.int8)
    train = np.unique(log.requests[log.splits == TRAIN])  # numbered by time
    late = train[int(len(train) * (1 - _TUNING_VAL)) :]
    splits[np.isin(log.requests, late)] = VAL
    fields = {
        name: getattr(log, name)[kept] for name in ("users", "items", "timestamps", "labels", "requests")
    }
    imputed = None if log.imputed is None else log.imputed[kept]
    measured = dataclasses.replace(log, splits=splits[kept], imputed=imputed, **fields)
    return dataclasses.replace(dataset, interactions=measured)


def drawn_items(dataset: Dataset, settings: Settings, draw: int) -> npt.NDArray[np.bool_]:
    """(I,) bool: the new items of a draw."""
    seed = draw + TUNING_DRAW if settings.tuning else draw
    return new_items(dataset, mode="draw", fraction=settings.new_share, seed=seed)


def run_samples(dataset: Dataset, hidden: npt.NDArray[np.bool_], settings: Settings) -> Samples:
    """The samples of a run. hidden: (I,) bool, items that are no candidates in train and val.

    With settings.rows a fixed share of the requests is kept: the same ones whatever is hidden.
    """
    samples = build_samples(dataset, hidden, settings.history_length)
    if not settings.rows:
        return samples
    log = dataset.interactions
    requests = int(log.requests.max()) + 1
    share = settings.rows / int((log.splits == TRAIN).sum())
    kept_request = np.random.default_rng(0).random(requests) < share
    kept = kept_request[samples.requests] | (samples.splits != TRAIN)
    return samples.take(np.flatnonzero(kept))


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows that all runs are measured on, R of them: what does not depend on a ranker.

    users: (R,) int32; requests: (R,) int64; items: (R,) int32 catalogue rows; labels: (R,) float32.
    """

    users: npt.NDArray[np.int32]
    requests: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]
    labels: npt.NDArray[np.float32]

    @classmethod
    def of(cls, samples: Samples) -> Rows:
        """The test split's, in its order."""
        chosen = np.flatnonzero(samples.splits == TEST)
        mask = samples.candidate_mask[chosen]
        sample = np.nonzero(mask)[0]
        return cls(
            samples.users[chosen][sample],
            samples.requests[chosen][sample],
            samples.candidates[chosen][mask] - 1,
            samples.labels[chosen][mask],
        )

    @property
    def digest(self) -> str:
        """Two comparisons of equal digest measure the same rows."""
        out = hashlib.sha256()
        for array in (self.users, self.requests, self.items, self.labels):
            out.update(np.ascontiguousarray(array).tobytes())
        return out.hexdigest()

    def check(self, digest: str, where: str) -> None:
        """InvalidInput where `digest` is of other rows."""
        if digest != self.digest:
            raise InvalidInput(where, digest[:16], "was measured on other rows")
