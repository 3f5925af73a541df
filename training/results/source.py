"""Where the runs' data come from: a dataset, its towers' features and the vectors of each draw."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contracts.schema import FeatureSchema
from training.data.dataset import Dataset, load_dataset
from training.item_features import Features
from training.item_table import item_table
from training.models.columns import AttributeTable
from training.results.content import draw_content
from training.results.log import Rows, drawn_items, measured_dataset, run_samples
from training.results.runs import Settings
from training.results.towers import Stage, tower_features
from training.results.train import Prepared
from training.vocabularies import fit_vocabularies


class Source(Protocol):
    """What a comparison needs of its data. Draws count from 0."""

    def prepared(self, draw: int, *, warm: bool) -> Prepared:
        """What the runs of a draw share; warm: of the oracle, whose new items are trained."""
        ...

    def new(self, draw: int) -> npt.NDArray[np.bool_]:
        """(I,) bool."""
        ...

    def rows(self) -> Rows:
        """The rows that every run is measured on."""
        ...


class LoggedData:
    """A data directory (docs/data.md). What is computed goes to `cache`, which processes share."""

    def __init__(
        self, data: Path, image_tower: Path, cache: Path, settings: Settings, *, threads: int, progress: Stage
    ) -> None:
        self._data = data
        self._image_tower = image_tower
        self._cache = cache
        self._settings = settings
        self._threads = threads
        self._progress = progress
        self._prepared: dict[tuple[int, bool], Prepared] = {}

    def prepared(self, draw: int, *, warm: bool) -> Prepared:
        """New items have no ID row, are no candidates in training, and nothing is fitted on their likes.

        As behaviours they keep their content, as any item that a worker encoded a second ago.
        """
        key = (draw, warm)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(self.new(draw), warm)
        return self._prepared[key]

    def new(self, draw: int) -> npt.NDArray[np.bool_]:
        return drawn_items(self._dataset, self._settings, draw)

    def rows(self) -> Rows:
        return Rows.of(run_samples(self._dataset, self.new(0), self._settings))

    def _prepare(self, new: npt.NDArray[np.bool_], warm: bool) -> Prepared:
        dataset, settings = self._dataset, self._settings
        hidden = np.zeros_like(new) if warm else new
        content = draw_content(
            dataset, hidden, self._towers, self._cache, threads=self._threads, progress=self._progress
        )
        fields = fit_vocabularies(content.records[~hidden], content.space.attributes)
        schema = FeatureSchema(settings.history_length, settings.id_dim, fields)
        return Prepared(
            samples=run_samples(dataset, hidden, settings),
            items=item_table(content.records, np.ones(len(new), dtype=bool), hidden, schema),
            attributes=AttributeTable.of(schema.items),
            modalities=tuple((m.name, m.dim) for m in content.space.modalities),
            space=content.space.id,
            new=new,
        )

    @cached_property
    def _dataset(self) -> Dataset:
        self._progress("data", 0, 1)
        dataset = measured_dataset(load_dataset(self._data), self._settings)
        self._progress("data", 1, 1)
        return dataset

    @cached_property
    def _towers(self) -> tuple[Features, Features]:
        return tower_features(
            self._dataset, self._image_tower, self._cache, threads=self._threads, progress=self._progress
        )
