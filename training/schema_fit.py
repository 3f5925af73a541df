"""The feature schema of a training run: every column's encoding, fitted on the train split alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.schema import Encoding, FeatureSchema, FieldEncoding
from contracts.space import Space
from training.data.context import RequestColumns
from training.data.interactions import TRAIN
from training.data.samples import Samples
from training.vocabularies import fit_columns, fit_vocabularies


def fit_schema(
    samples: Samples,
    records: Rows,
    space: Space,
    *,
    history_length: int,
    id_dim: int,
    time_gaps: bool = False,
    encodings: Mapping[str, Encoding] | None = None,
) -> FeatureSchema:
    """What rankers read: the space's attributes, and what the samples say of users, requests and searches.

    records: of the items that training sees; encodings: of item attributes by name, None = as
    training.vocabularies has it; those of users and requests came with the data. A user counts once, and so
    does a request, however many rows they have.
    """
    train = samples.splits == TRAIN
    said = samples.said
    return FeatureSchema(
        history_length=history_length,
        id_dim=id_dim,
        items=fit_vocabularies(records, space.attributes, encodings=encodings),
        user=_fit(said.users, samples.users[train]),
        context=_fit(said.context, samples.requests[train]),
        time_gaps=time_gaps,
        query=() if said.queries is None else space.modalities,
    )


def _fit(columns: RequestColumns | None, seen: npt.NDArray[np.integer]) -> tuple[FieldEncoding, ...]:
    if columns is None:
        return ()
    slots = columns.slots[np.unique(seen)]
    return fit_columns(slots, columns.fields, encodings=columns.encodings, default="requests")
