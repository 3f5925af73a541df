"""The content vectors of one draw of new items, as records: nobody's likes of a new item touch them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from contracts.codec import Rows, encode_records
from contracts.encoder_spec import MODALITIES
from contracts.space import Modality, Space, space_from_json
from training.data.dataset import Dataset
from training.data.pairs import interest_pairs
from training.item_features import Features
from training.leave_one_out import LeaveOneOutConfig
from training.recipes.csft import train_head
from training.recipes.csft_config import CsftConfig
from training.recipes.loo_vectors import catalogue_slots, loo_records, loo_vectors
from training.results.files import locked, read_arrays, write_arrays
from training.results.towers import Stage

DIM = 128
_VERSION = 1  # of what is computed here: raise it to leave older caches behind


@dataclass(frozen=True, eq=False)
class Content:
    """A space of text, image, fused (C-SFT's head) and loo (leave-one-out), and its records (I,)."""

    space: Space
    records: Rows


def draw_content(
    dataset: Dataset,
    new: npt.NDArray[np.bool_],
    towers: tuple[Features, Features],
    cache: Path,
    *,
    threads: int,
    progress: Stage,
) -> Content:
    """All I items' vectors. new: (I,) bool, items whose likes nothing is fitted on.

    towers: text and image features. The cache's file name carries a digest of everything that is read.
    """
    text, image = towers
    pairs = interest_pairs(dataset, new)
    identity = hashlib.sha256(
        json.dumps([_VERSION, DIM, asdict(CsftConfig()), asdict(LeaveOneOutConfig())]).encode()
    )
    for array in (text.values, text.present, image.values, image.present, new, pairs):
        identity.update(np.ascontiguousarray(array).tobytes())
    digest = identity.hexdigest()
    path = cache / f"content-{digest[:16]}.npz"
    with locked(cache / f"content-{digest[:16]}.lock", wait=True):
        if not path.exists():
            base = _csft(dataset, new, text, image, pairs, digest, threads, progress)
            progress("leave-one-out vectors", 0, 1)
            slots = catalogue_slots(dataset)
            loo = loo_vectors(dataset, new, text, image, slots=slots, dim=DIM)
            space, records = loo_records(dataset, loo, base=base, keep=MODALITIES, slots=slots)
            write_arrays(path, space=np.array(json.dumps(space.to_json())), records=records)
            progress("leave-one-out vectors", 1, 1)
    arrays = read_arrays(path)
    return Content(space_from_json(json.loads(str(arrays["space"]))), arrays["records"])


def _csft(
    dataset: Dataset,
    new: npt.NDArray[np.bool_],
    text: Features,
    image: Features,
    pairs: npt.NDArray[np.int32],
    digest: str,
    threads: int,
    progress: Stage,
) -> tuple[Space, Rows]:
    """Records of the encoder recipe's head."""
    head, _ = train_head(
        text,
        image,
        pairs.astype(np.int64),
        np.flatnonzero(~new),
        DIM,
        CsftConfig(),
        seed=0,
        threads=threads,
        progress=lambda done, total: progress("C-SFT", done, total),
    )
    with torch.inference_mode():
        given = (text.values, image.values, text.present, image.present)
        vectors = [v.numpy() for v in head(*(torch.from_numpy(array) for array in given))]
    fields = dataset.catalogue.attribute_fields
    records = encode_records(vectors, np.ones(len(new), dtype=np.uint64), catalogue_slots(dataset))
    return Space(digest, tuple(Modality(name, DIM) for name in MODALITIES), fields), records
