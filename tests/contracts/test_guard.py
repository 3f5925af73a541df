"""The quantisation guard: losses against arithmetic done another way, flags, seals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from contracts.codec import CONTENT_FP16, CONTENT_INT8, encode_records, tombstones
from contracts.errors import BrokenBundle, InvalidInput
from contracts.guard import (
    BUCKETS,
    PROBES,
    Guard,
    GuardLimits,
    buckets_of,
    choose_probes,
    flagged,
    read_guard,
    write_guard,
)
from contracts.space import Modality, Space


def unit(count: int, dim: int, seed: int = 0) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(size=(count, dim))
    out: npt.NDArray[np.float32] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return out


def space_of(dims: dict[str, int], codec: int = CONTENT_INT8) -> Space:
    return Space("e" * 64, tuple(Modality(name, dim) for name, dim in dims.items()), codec=codec)


def test_losses_are_those_of_plain_arithmetic() -> None:
    space, count = space_of({"text": 24, "image": 40}), 30
    vectors = [unit(count, 24), unit(count, 40, 1)]
    vectors[1][3] = 0
    probes = {"text": unit(PROBES, 24, 2), "image": unit(17, 40, 3)}
    rows = encode_records(vectors, np.ones(count, np.uint64), np.zeros((count, 0), np.uint32))
    loss = Guard(probes).loss(vectors, rows, space)
    start = 0
    for m, (name, dim) in enumerate({"text": 24, "image": 40}.items()):
        for k in range(count):
            codes = rows["codes"][k, start : start + dim].astype(np.float64)
            if not codes.any():
                assert (loss.cosine_error[k, m], loss.flips[k, m]) == (0, 0)
                continue
            stored = codes / np.linalg.norm(codes)
            exact = vectors[m][k].astype(np.float64)
            assert loss.cosine_error[k, m] == pytest.approx(
                1 - exact @ stored / np.linalg.norm(exact), abs=1e-6
            )
            flips = [
                int((exact @ p + 1) / 2 * (BUCKETS - 1)) != int((stored @ p + 1) / 2 * (BUCKETS - 1))
                for p in probes[name].astype(np.float64)
            ]
            assert loss.flips[k, m] == pytest.approx(np.mean(flips), abs=1.5 / len(flips))
        start += dim
    assert loss.flips.max() > 0


def test_a_row_that_lost_too_much_is_flagged_by_modality_and_the_others_are_not() -> None:
    space, count = space_of({"text": 1040, "image": 64}), 8
    vectors = [unit(count, 1040), unit(count, 64, 1)]
    vectors[0][5] /= 1e4
    vectors[0][5, 0] = 1.0  # one component governs: all others round to nothing
    vectors[0][5] += unit(1, 1040, 9)[0] * np.float32(0.11)  # 0.0034 each, below half a step of 0.0087
    vectors[0][5] /= np.linalg.norm(vectors[0][5])
    rows = encode_records(vectors, np.ones(count, np.uint64), np.zeros((count, 0), np.uint32))
    assert not rows["guard"].any()
    probes = {"text": unit(PROBES, 1040, 3), "image": unit(PROBES, 64, 4)}
    loss = Guard(probes).mark(vectors, rows, space)
    assert rows["guard"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert loss.cosine_error[5, 0] > 1e-3 > loss.cosine_error[:, 1].max()
    assert flagged(rows, ["text", "image"]) == {"text": 1, "image": 0}
    Guard(probes, GuardLimits(cosine_error=1.0, flips=0.0)).mark(vectors, rows, space)
    assert (rows["guard"] & 2).any()  # by flips alone
    dead = tombstones(space.dtype, np.array([1], np.uint64))
    dead["guard"] = 3
    assert flagged(dead, ["text", "image"]) == {"text": 0, "image": 0}


def test_halves_lose_less() -> None:
    vectors = [unit(50, 64)]
    losses = {}
    for codec in (CONTENT_INT8, CONTENT_FP16):
        rows = encode_records(vectors, np.ones(50, np.uint64), np.zeros((50, 0), np.uint32), codec)
        losses[codec] = Guard().loss(vectors, rows, space_of({"text": 64}, codec)).cosine_error
    assert losses[CONTENT_FP16].max() < 1e-6 < losses[CONTENT_INT8].min()


def test_buckets_cover_the_cosines() -> None:
    assert buckets_of(np.array([-1.1, -1.0, 0.0, 0.999, 1.0, 1.1], np.float32)).tolist() == [
        *(0, 0, 24, 48, 49, 49)
    ]


def test_probes_are_unit_vectors_of_those_given_and_the_seed_chooses() -> None:
    vectors = unit(200, 8) * np.float32(3)
    vectors[:50] = 0
    one, same, other = (choose_probes({"text": vectors}, seed)["text"] for seed in (1, 1, 2))
    assert one.shape == (PROBES, 8)
    assert np.linalg.norm(one, axis=1) == pytest.approx(np.ones(PROBES), abs=1e-6)
    assert (one == same).all()
    assert (one != other).any()
    assert len(choose_probes({"text": vectors[:53]}, 0)["text"]) == 3


def test_a_guard_is_read_back_and_anything_else_is_refused(tmp_path: Path) -> None:
    path, space = tmp_path / "probes.npz", space_of({"text": 8})
    guard = Guard({"text": unit(5, 8)}, GuardLimits(0.01, 0.5))
    write_guard(path, guard)
    back = read_guard(path, space)
    assert back.limits == guard.limits
    assert (back.probes["text"] == guard.probes["text"]).all()
    for other in (space_of({"text": 9}), space_of({"image": 8})):
        with pytest.raises(BrokenBundle, match=r"probes\.text"):
            read_guard(path, other)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BrokenBundle):
        read_guard(path, space)
    with pytest.raises(InvalidInput, match="limits"):
        write_guard(path, Guard({"limits": unit(5, 8)}))
    with pytest.raises(InvalidInput, match="flips"):
        GuardLimits(flips=-1.0)
