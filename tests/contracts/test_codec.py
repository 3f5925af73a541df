"""Records and ID rows: bytes by literal, numerics against bitsandbytes, round trips, cosine error bound."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contracts import codec
from contracts.errors import InvalidInput, UnknownVersion

FLOAT32_MAX = float(np.finfo(np.float32).max)

# One item of a space text 4, image 3 (missing), fused 2 with two attribute slots.
RECORD_HEX = (
    "01"  # version
    "01"  # codec content_int8
    "02"  # flags: modality 1 (image) is missing
    "00"  # reserved
    "efcdab8967452301"  # sequence 0x0123456789abcdef
    "bbcae03b"  # 1 / sqrt(64^2 + 32^2 + 0 + 127^2)
    "00000000"  # image is missing
    "d771b63b"  # 1 / sqrt(127^2 + 127^2)
    "78563412"  # attribute slot 0: 0x12345678
    "0000c03f"  # attribute slot 1: the bits of 1.5
    "40e0007f"  # text codes 64 -32 0 127
    "000000"
    "7f81"  # fused codes 127 -127
)


def one_record() -> codec.Rows:
    return codec.encode_records(
        [
            np.array([[0.5, -0.25, 0.0, 1.0]], np.float32),
            np.zeros((1, 3), np.float32),
            np.array([[0.70710677, -0.70710677]], np.float32),
        ],
        np.array([0x0123456789ABCDEF], np.uint64),
        np.array([[0x12345678, 0x3FC00000]], np.uint32),
    )


def test_record_layout_is_this_hex() -> None:
    rows = one_record()
    assert codec.stored_bytes(rows) == [bytes.fromhex(RECORD_HEX)]
    assert rows.dtype.itemsize == 12 + 4 * 3 + 4 * 2 + 9


def test_record_layout_in_halves_is_this_hex() -> None:
    rows = codec.encode_records(
        [np.array([[0.5, -0.25, 0.0]], np.float32), np.zeros((1, 2), np.float32)],
        np.array([7], np.uint64),
        np.zeros((1, 0), np.uint32),
        codec.CONTENT_FP16,
    )
    # version, codec 4, image missing, guard; sequence; 1 / sqrt(0.3125), 0; 0.5 -0.25 0 | 0 0
    expected = "01040200 0700000000000000 2ef9e43f 00000000 003800b40000 00000000"
    assert rows.tobytes() == bytes.fromhex(expected)
    text, image = codec.decode_vectors(rows, (3, 2))
    np.testing.assert_allclose(text, [np.array([2, -1, 0]) / np.sqrt(5)], atol=1e-7)
    assert not image.any()
    dead = codec.tombstones(rows.dtype, np.array([8], np.uint64))
    assert codec.stored_bytes(dead) == [bytes.fromhex("01048000 0800000000000000")]


def test_records_of_another_content_codec_are_refused() -> None:
    halves = np.zeros(2, codec.record_dtype((3,), 0, codec.CONTENT_FP16))
    halves["version"], halves["codec"] = 1, (codec.CONTENT_FP16, codec.CONTENT_INT8)
    codec.check_records(halves[:1], "here")
    with pytest.raises(UnknownVersion, match=r"here, row 1.*content_int8.*content_fp16"):
        codec.check_records(halves, "here")
    with pytest.raises(UnknownVersion, match="content codec"):
        codec.record_dtype((3,), 0, codec.ID_INT8)


@pytest.mark.parametrize("value", [65520.0, np.inf, np.nan])
def test_vectors_that_do_not_fit_halves_are_refused(value: float) -> None:
    vectors = [np.array([[0.0, 1.0], [0.0, value]], np.float32)]
    with pytest.raises(InvalidInput, match=r"vectors\[1\]"):
        codec.encode_records(vectors, np.ones(2, np.uint64), np.zeros((2, 0), np.uint32), codec.CONTENT_FP16)


def test_tombstone_is_its_header() -> None:
    rows = codec.tombstones(codec.record_dtype((4, 3, 2), 2), np.array([0x0123456789ABCDEF], np.uint64))
    assert codec.stored_bytes(rows) == [bytes.fromhex("01018000efcdab8967452301")]
    assert codec.is_tombstone(rows).tolist() == [True]
    assert not any(rows.tobytes()[codec.HEADER_BYTES :])
    assert codec.is_tombstone(one_record()).tolist() == [False]


def test_stored_bytes_of_a_mixture_keep_order() -> None:
    mixed = np.concatenate([one_record(), codec.tombstones(one_record().dtype, np.array([7], np.uint64))])
    assert [len(blob) for blob in codec.stored_bytes(mixed)] == [41, 12]


def test_id_row_int8_is_this_hex() -> None:
    rows = codec.encode_id_rows(np.array([[2.54, -1.27, 0.0]], np.float32), np.array([1.5], np.float32))
    # version 1, codec 2, evidence f16 1.5, scale f32 0.02, codes 127 -64 0 (-63.5 rounds to even)
    assert rows.tobytes().hex() == "0102003e0ad7a33c7fc000"


def test_id_row_fp16_is_this_hex() -> None:
    rows = codec.encode_id_rows(
        np.array([[2.5, -1.0, 0.0]], np.float32), np.array([1.5], np.float32), codec.ID_FP16
    )
    assert rows.tobytes().hex() == "0103003e004100bc0000"


def bitsandbytes_codes(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # says at import which kernels it lacks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torch|bitsandbytes)(\.|$)")
        functional: Any = importlib.import_module("bitsandbytes.functional")
        codes, absmax, _ = functional.int8_vectorwise_quant(torch.from_numpy(vectors.copy()))
    return codes.numpy(), absmax.numpy()


@pytest.mark.parametrize("dim", [1, 7, 128, 384, 1040])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-30, 4e-37, 1e-38, 1e-44, 1e6, 1e30, 1e38])
def test_codes_are_bit_exact_with_bitsandbytes(scale: float, dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = (rng.standard_normal((64, dim)).clip(-3, 3) * scale).astype(np.float32)
    vectors[3] = 0
    vectors[5] = np.float32(scale)
    vectors[9, 1:] = 0
    codes, absmax = codec.quantise_absmax(vectors)
    expected, expected_absmax = bitsandbytes_codes(vectors)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(absmax, expected_absmax)


def test_huge_random_set_is_bit_exact_where_the_obvious_formula_is_not() -> None:
    vectors = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    codes, absmax = codec.quantise_absmax(vectors)
    np.testing.assert_array_equal(codes, bitsandbytes_codes(vectors)[0])
    obvious = np.rint(vectors * (np.float32(127) / absmax)[:, None])
    assert (obvious != codes).any()


def test_largest_float_fits() -> None:
    vectors = np.full((2, 8), FLOAT32_MAX, np.float32)
    vectors[1, ::2] *= -1
    codes, _ = codec.quantise_absmax(vectors)
    np.testing.assert_array_equal(np.abs(codes), 127)
    np.testing.assert_array_equal(codes, bitsandbytes_codes(vectors)[0])


finite_rows = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.floats(-FLOAT32_MAX, FLOAT32_MAX, width=32),
)


@given(finite_rows)
@settings(max_examples=150, deadline=None)
def test_codes_are_symmetric_and_within_half_a_step(vectors: npt.NDArray[np.float32]) -> None:
    codes, absmax = codec.quantise_absmax(vectors)
    assert codes.min(initial=0) >= -127
    np.testing.assert_array_equal(codec.quantise_absmax(-vectors)[0], -codes)
    usable = absmax > 4e-37  # below, 127 / absmax has no float32 and the row counts as zero
    assert not codes[absmax < 1e-38].any()
    back = codes.astype(np.float64) * (absmax.astype(np.float64) / 127)[:, None]
    step = absmax.astype(np.float64)[:, None] / 127
    assert (np.abs(back - vectors)[usable] <= 0.5001 * np.broadcast_to(step, back.shape)[usable]).all()


@given(finite_rows)
@settings(max_examples=50, deadline=None)
def test_codes_match_bitsandbytes_on_any_finite_rows(vectors: npt.NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(codec.quantise_absmax(vectors)[0], bitsandbytes_codes(vectors)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_and_the_row_named(value: float) -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[2, 1] = value
    with pytest.raises(InvalidInput, match=r"vectors\[2\]"):
        codec.quantise_absmax(vectors)


@given(
    st.integers(0, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.integers(0, 4),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_records_round_trip(count: int, dims: list[int], slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal((count, d)).astype(np.float32) for d in dims]
    missing = rng.random((count, len(dims))) < 0.3
    for m, block in enumerate(vectors):
        block[missing[:, m]] = 0
    sequences = rng.integers(0, 2**64, count, dtype=np.uint64)
    attributes = rng.integers(0, 2**32, (count, slots), dtype=np.uint32)
    rows = codec.encode_records(vectors, sequences, attributes)
    dtype = codec.record_dtype(tuple(dims), slots)
    again = np.frombuffer(b"".join(codec.stored_bytes(rows)), dtype)
    codec.check_records(again, "rows")
    np.testing.assert_array_equal(again["sequence"], sequences)
    np.testing.assert_array_equal(again["attributes"], attributes)
    for m, (block, decoded) in enumerate(zip(vectors, codec.decode_vectors(again, tuple(dims)), strict=True)):
        np.testing.assert_array_equal((again["flags"] >> m) & 1, missing[:, m].astype(np.uint8))
        assert not decoded[missing[:, m]].any()
        codes, _ = codec.quantise_absmax(block)
        norms = np.sqrt((codes.astype(np.float64) ** 2).sum(axis=1))
        expected = codes / np.where(norms > 0, norms, 1)[:, None]
        np.testing.assert_allclose(decoded, expected, atol=1e-6)


def angle_bound(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The largest angle between a row and its codes: every component is off by half a step at most."""
    wide = vectors.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1)
    reach = np.sqrt(wide.shape[1]) * np.abs(wide).max(axis=1) / 254 / norm
    angle: npt.NDArray[np.float64] = np.arcsin(np.minimum(reach * 1.0001, 1.0))
    return angle


def cosine_errors(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """|cosine of the records - true cosine| (K, K) and its bound (K, K)."""
    count, dim = vectors.shape
    rows = codec.encode_records([vectors], np.arange(count, dtype=np.uint64), np.zeros((count, 0), np.uint32))
    dots = rows["codes"].astype(np.float32) @ rows["codes"].astype(np.float32).T
    inv_norm = rows["inv_norm"][:, 0]
    stored = dots * inv_norm[:, None] * inv_norm[None, :]
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    angle = angle_bound(vectors)
    assert dim == rows["codes"].shape[1]
    return np.abs(stored - unit @ unit.T), angle[:, None] + angle[None, :] + 1e-5


@pytest.mark.parametrize("dim", [2, 16, 128, 1040])
@pytest.mark.parametrize("shape", ["normal", "spiky", "sparse"])
def test_cosine_error_stays_below_the_bound(shape: str, dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.standard_normal((40, dim)).astype(np.float32)
    if shape == "spiky":
        vectors[:, 0] *= 50
    if shape == "sparse":
        vectors *= rng.random(vectors.shape) < 0.2
        vectors[:, 0] += 0.01
    error, bound = cosine_errors(vectors)
    assert (error <= bound).all()
    if shape == "normal":
        assert error.max() < 0.01


@given(hnp.arrays(np.float32, (4, 12), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=100, deadline=None)
def test_cosine_error_stays_below_the_bound_for_any_rows(vectors: npt.NDArray[np.float32]) -> None:
    vectors = vectors[np.abs(vectors).max(axis=1) > 1e-6]
    error, bound = cosine_errors(vectors)
    assert (error <= bound).all()


@given(finite_rows)
@settings(max_examples=80, deadline=None)
def test_id_rows_int8_keep_the_norm(vectors: npt.NDArray[np.float32]) -> None:
    vectors = np.where(np.abs(vectors) < 1e-30, np.float32(0), vectors)
    rows = codec.encode_id_rows(vectors, np.zeros(len(vectors), np.float32))
    again = np.frombuffer(rows.tobytes(), codec.id_row_dtype(codec.ID_INT8, vectors.shape[1]))
    codec.check_id_rows(again, codec.ID_INT8)
    absmax = np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        decoded = codec.decode_id_rows(again).astype(np.float64)
    fits = np.isfinite(decoded)
    assert (np.abs(decoded - vectors)[fits] <= (absmax / 253 + 1e-37).repeat(vectors.shape[1], 1)[fits]).all()


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-65504, 65504, width=16)))
@settings(max_examples=50, deadline=None)
def test_id_rows_fp16_are_exact_for_fp16_values(vectors: npt.NDArray[np.float32]) -> None:
    rows = codec.encode_id_rows(vectors, np.array([0, 1, 5], np.float32), codec.ID_FP16)
    again = np.frombuffer(rows.tobytes(), codec.id_row_dtype(codec.ID_FP16, 5))
    codec.check_id_rows(again, codec.ID_FP16)
    np.testing.assert_array_equal(codec.decode_id_rows(again), vectors)
    assert again["evidence"].tolist() == [0, 1, 5]


@pytest.mark.parametrize("value", [70_000.0, -70_000.0, np.nan, np.inf])
def test_what_does_not_fit_fp16_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="does not fit fp16"):
        codec.encode_id_rows(np.array([[value]], np.float32), np.zeros(1, np.float32), codec.ID_FP16)


@pytest.mark.parametrize(("name", "value"), [("version", 0), ("version", 2), ("codec", 2), ("codec", 99)])
def test_records_of_unknown_version_are_refused(name: str, value: int) -> None:
    rows = np.concatenate([one_record(), one_record()])
    codec.check_records(rows, "rows")
    rows[name][1] = value
    with pytest.raises(UnknownVersion, match="rows, row 1"):
        codec.check_records(rows, "rows")


@pytest.mark.parametrize(("name", "value"), [("version", 0), ("version", 2), ("codec", 1), ("codec", 99)])
@pytest.mark.parametrize("id_codec", [codec.ID_INT8, codec.ID_FP16])
def test_id_rows_of_unknown_version_are_refused(id_codec: int, name: str, value: int) -> None:
    rows = codec.encode_id_rows(np.ones((2, 3), np.float32), np.zeros(2, np.float32), id_codec)
    codec.check_id_rows(rows, id_codec)
    rows[name][1] = value
    with pytest.raises(UnknownVersion, match="ID row 1"):
        codec.check_id_rows(rows, id_codec)


@pytest.mark.parametrize("id_codec", [0, codec.CONTENT_INT8, 99])
def test_an_id_row_codec_that_is_none_is_refused(id_codec: int) -> None:
    with pytest.raises(UnknownVersion):
        codec.id_row_dtype(id_codec, 4)
