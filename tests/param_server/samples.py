"""Real records, windows, ID rows and bundles for the tests of this room."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import ID_INT8, Rows, encode_id_rows, encode_records, tombstones
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import RankerSpec
from contracts.schema import FeatureSchema
from contracts.space import Modality, Space
from contracts.window import Window


def make_space(dim: int = 8, digest: str | None = None) -> Space:
    """A space of three modalities that no other test has met."""
    return Space(digest or uuid.uuid4().hex * 2, tuple(Modality(n, dim) for n in ("text", "image", "fused")))


def make_records(space: Space, sequences: Sequence[int], seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    vectors = [generator.normal(size=(len(sequences), d)).astype(np.float32) for d in space.dims]
    attributes = np.zeros((len(sequences), space.attribute_slots), np.uint32)
    return encode_records(vectors, np.array(sequences, np.uint64), attributes)


def make_tombstones(space: Space, sequences: Sequence[int]) -> Rows:
    return tombstones(space.dtype, np.array(sequences, np.uint64))


def make_window(space: Space, items: Sequence[str], sequences: Sequence[int], seed: int = 0) -> Window:
    return Window(space, list(items), make_records(space, sequences, seed), 1_700_000_000_000)


def make_deletes(space: Space, items: Sequence[str], sequences: Sequence[int]) -> Window:
    return Window(space, list(items), make_tombstones(space, sequences), 1_700_000_000_000)


def make_id_rows(count: int, dim: int = 16, seed: int = 0, codec: int = ID_INT8) -> Rows:
    generator = np.random.default_rng(seed)
    vectors: npt.NDArray[np.float32] = generator.normal(size=(count, dim)).astype(np.float32)
    return encode_id_rows(vectors, np.zeros(count, np.float32), codec)


def seal_ranker(directory: Path, space: Space, rows: int, id_base: str | None = None) -> Bundle:
    """A sealed ranker bundle; publishing reads its manifest and digests, never runs its graph."""
    directory.mkdir(parents=True)
    write_golden(directory, {"ranker": ({"x": np.zeros(1)}, {"y": np.zeros(1)})})
    return seal(directory, "ranker", ranker_content(space, rows, id_base))


def ranker_content(space: Space, rows: int, id_base: str | None = None) -> dict[str, Any]:
    """What a ranker bundle's manifest says."""
    return RankerSpec({"name": "din"}, space, FeatureSchema(8, 16, ()), rows, id_base=id_base).to_json()


def make_generation(bundle: Bundle, space: Space, table: IdTable, created_ms: int = 1) -> Generation:
    return Generation(
        created_ms, "encoder", space.encoder_digest, space, str(bundle.path), bundle.digest, table
    )
