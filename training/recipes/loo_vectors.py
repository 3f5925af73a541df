"""Leave-one-out vectors of a dataset as content records, so that rankers train on them as on any space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, decode_vectors, encode_records
from contracts.errors import InvalidInput, SpaceMismatch
from contracts.items import AttributeField, attribute_slots
from contracts.space import Modality, Space
from training.co_likes import train_likes
from training.data.dataset import Dataset
from training.data.interactions import VAL
from training.data.samples import build_samples
from training.feature_blocks import FeatureBlock
from training.item_features import Features
from training.leave_one_out import LeaveOneOut, LeaveOneOutConfig, leave_one_out_vectors
from training.similarity_auc import similarity_auc

MODALITY = "loo"
IMAGE_WEIGHT = 0.3
BUMPS = 21  # of a numeric attribute
MIN_COUNT = 2  # items of a token
_SEQUENCE = 1


def loo_vectors(
    dataset: Dataset,
    new: npt.NDArray[np.bool_],
    text: Features,
    image: Features,
    *,
    slots: npt.NDArray[np.uint32] | None = None,
    attributes: bool = True,
    dim: int = 128,
    config: LeaveOneOutConfig | None = None,
) -> LeaveOneOut:
    """Fit on the train split's likes of items that are not new: (I,) bool.

    text, image: tower features of all I items (training.item_features); slots: (I, A) uint32 of the
    catalogue's attribute fields, None to compute them. attributes=False fits what an encoder's head alone
    can serve: text_features, image_features, has_text, has_image.
    """
    blocks = [
        FeatureBlock("text", text.values, text.present),
        FeatureBlock("image", image.values, image.present, IMAGE_WEIGHT),
    ]
    if attributes:
        slots = catalogue_slots(dataset) if slots is None else slots
        blocks += attribute_blocks(slots, dataset.catalogue.attribute_fields, ~new)
    return leave_one_out_vectors(blocks, train_likes(dataset, new), new, dim=dim, config=config)


def choose_config(
    dataset: Dataset,
    new: npt.NDArray[np.bool_],
    text: Features,
    image: Features,
    configs: Sequence[LeaveOneOutConfig],
    *,
    attributes: bool = True,
    dim: int = 128,
    history_length: int = 64,
) -> tuple[LeaveOneOutConfig, list[float]]:
    """The config whose left-out vectors rank the val split best (AUC of the mean cosine), and all AUCs.

    The val split holds warm candidates alone: no new item's interaction has a say.
    """
    if not configs:
        raise InvalidInput("configs", 0, "must hold at least one")
    samples = build_samples(dataset, new, history_length)
    slots = catalogue_slots(dataset) if attributes else None
    aucs = []
    for config in configs:
        fitted = loo_vectors(
            dataset, new, text, image, slots=slots, attributes=attributes, dim=dim, config=config
        )
        aucs.append(similarity_auc(fitted.vectors, samples, VAL, new)["mean"])
    return configs[int(np.argmax(aucs))], aucs


def loo_records(
    dataset: Dataset,
    loo: LeaveOneOut,
    *,
    base: tuple[Space, Rows] | None = None,
    keep: Sequence[str] = (),
    slots: npt.NDArray[np.uint32] | None = None,
) -> tuple[Space, Rows]:
    """A space with the modality `loo`, and its records (I,) in catalogue order, attributes included.

    base: a space and its records in catalogue order, zero where an item has none, of which modalities `keep`
    go first. slots: (I, A) uint32 of the catalogue's attribute fields, None to compute them; a base must have
    the same fields. The space's digest is that of the base's, the modalities' names and the vectors, so
    that no other fit can be mistaken for it.
    """
    names, vectors, digest = [*keep, MODALITY], [], ""
    fields = dataset.catalogue.attribute_fields
    if base is None:
        if keep:
            raise InvalidInput("keep", list(keep), "needs a base")
    else:
        space, records = base
        if records.dtype != space.dtype:
            raise SpaceMismatch(str(space.dtype), str(records.dtype), "base records")
        if len(records) != len(loo.vectors):
            raise InvalidInput("base", len(records), f"must hold {len(loo.vectors)} records")
        if space.attributes != fields:
            raise InvalidInput(
                "base", [f.name for f in space.attributes], "must have the catalogue's attributes"
            )
        dims = {m.name: m.dim for m in space.modalities}
        for name in keep:
            if name not in dims or name == MODALITY:
                raise InvalidInput("keep", name, f"must be among {', '.join(dims)}, and not {MODALITY}")
        decoded = dict(zip(dims, decode_vectors(records, space.dims), strict=True))
        vectors = [decoded[name] for name in keep]
        digest = space.encoder_digest
    attributes = catalogue_slots(dataset) if slots is None else slots
    vectors.append(loo.vectors)
    out = encode_records(vectors, np.full(len(loo.vectors), _SEQUENCE, dtype=np.uint64), attributes)
    header = json.dumps([digest, names, loo.vectors.shape]).encode()
    identity = hashlib.sha256(header + np.ascontiguousarray(loo.vectors).tobytes()).hexdigest()
    modalities = tuple(Modality(n, int(v.shape[1])) for n, v in zip(names, vectors, strict=True))
    return Space(identity, modalities, fields), out


def catalogue_slots(dataset: Dataset) -> npt.NDArray[np.uint32]:
    """(I, A) uint32: the attributes as records hold them."""
    catalogue = dataset.catalogue
    columns = {f.name: catalogue.columns[f.name].to_pylist() for f in catalogue.attribute_fields}
    slots = [
        attribute_slots(
            {n: v for n, v in zip(columns, row, strict=True) if v is not None and v != ""},
            catalogue.attribute_fields,
        )
        for row in zip(*columns.values(), strict=True)
    ]
    return np.stack(slots) if slots else np.zeros((len(catalogue), 0), dtype=np.uint32)


def attribute_blocks(
    slots: npt.NDArray[np.uint32], fields: Sequence[AttributeField], fitted: npt.NDArray[np.bool_]
) -> list[FeatureBlock]:
    """One joint block per field, from record slots (I, A): what a pushed item brings too.

    categorical: one column per token that MIN_COUNT of the `fitted` (I,) bool items have; numeric: BUMPS
    smooth columns between the 1st and 99th percentile. A field that says nothing of them gives no block.
    """
    blocks, column = [], 0
    for f in fields:
        part = np.ascontiguousarray(slots[:, column : column + f.slots])
        column += f.slots
        values = _bumps(part, fitted) if f.kind == "numeric" else _tokens(part, fitted)
        if values is not None:
            blocks.append(
                FeatureBlock(f"attribute {f.name}", values, values.max(axis=1) > 0, 1.0, False, True)
            )
    return blocks


def _tokens(part: npt.NDArray[np.uint32], fitted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    tokens, counts = np.unique(part[fitted][part[fitted] != 0], return_counts=True)
    tokens = tokens[counts >= MIN_COUNT]
    if not len(tokens):
        return None
    place = np.minimum(np.searchsorted(tokens, part), len(tokens) - 1)
    item, slot = np.nonzero(tokens[place] == part)
    values = np.zeros((len(part), len(tokens)), dtype=np.float32)
    values[item, place[item, slot]] = 1
    return values


def _bumps(part: npt.NDArray[np.uint32], fitted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    """Bells one spacing wide, so that near values have near rows."""
    numbers = part.view(np.float32).ravel().astype(np.float64)
    there = ~np.isnan(numbers)
    if not (there & fitted).any():
        return None
    low, high = np.percentile(numbers[there & fitted], [1, 99])
    if high <= low:
        return None
    centres = np.linspace(low, high, BUMPS)
    spread = (np.clip(numbers, low, high)[:, None] - centres) / (centres[1] - centres[0])
    return np.where(there[:, None], np.exp(-0.5 * spread**2), 0).astype(np.float32)
