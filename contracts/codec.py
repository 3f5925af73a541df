"""Vectors <-> record bytes and ID rows <-> bytes: the numerics and the layout, little-endian throughout.

Content record of a space with M modalities, D = sum of their dims, A attribute slots
(`record_dtype`; at M=3, D=384, A=0 it is 408 bytes):

| offset        | bytes | field      | meaning                                                      |
| ------------- | ----- | ---------- | ------------------------------------------------------------ |
| 0             | 1     | version    | RECORD_VERSION                                               |
| 1             | 1     | codec      | CONTENT_INT8 or CONTENT_FP16, the space's                    |
| 2             | 1     | flags      | bit m: modality m is missing; bit 7: tombstone               |
| 3             | 1     | guard      | bit m: modality m lost too much (contracts.guard); bit 7: 0  |
| 4             | 8     | sequence   | u64 given by the write door                                  |
| 12            | 4 M   | inv_norm   | f32, 1 / l2 norm of the codes or values; 0 where missing     |
| 12 + 4M       | 4 A   | attributes | u32 slots, see contracts.items.AttributeField                |
| 12 + 4M + 4A  | D     | codes      | int8: i8 in [-127, 127], modalities side by side             |
|               | 2 D   | values     | fp16 in their place: f16, of unit vectors                    |

A tombstone is the first 12 bytes alone. Both scalars of a cosine are in the record:
cos(a, b) = (codes_a . codes_b) * inv_norm_a * inv_norm_b, in that order everywhere. Rankers read int8 codes
only; fp16 spaces are for export and for reading vectors back (docs/adr/0010).

ID row (`id_row_dtype`), a trained embedding whose norm matters:

| codec   | bytes | fields                                                             |
| ------- | ----- | ------------------------------------------------------------------ |
| ID_INT8 | 8 + d | version u8, codec u8, evidence f16, scale f32 = absmax / 127, i8[d] |
| ID_FP16 | 4 + 2d| version u8, codec u8, evidence f16, f16[d]                          |

`evidence` is log1p of the number of training examples, whatever their label, behind the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InvalidInput, UnknownVersion

RECORD_VERSION = 1
ID_ROW_VERSION = 1
HEADER_BYTES = 12
TOMBSTONE = 0x80
MAX_MODALITIES = 7

CONTENT_INT8 = 1
ID_INT8 = 2
ID_FP16 = 3
CONTENT_FP16 = 4
CODEC_NAMES = {
    CONTENT_INT8: "content_int8",
    ID_INT8: "id_int8",
    ID_FP16: "id_fp16",
    CONTENT_FP16: "content_fp16",
}
CONTENT_CODECS = (CONTENT_INT8, CONTENT_FP16)

_CONTENT_NAMES = tuple(CODEC_NAMES[codec] for codec in CONTENT_CODECS)

Rows = npt.NDArray[Any]  # (K,) of a structured dtype made here


def quantise_absmax(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Row-wise absmax int8, bit-exact with bitsandbytes' `int8_vectorwise_quant`.

    vectors: (K, d) float32, finite -> codes (K, d) int8 in [-127, 127], absmax (K,) float32.
    The factor is (1 / absmax) * 127 in float32: 127 / absmax differs in a few codes. A zero row gives zeros.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InvalidInput(f"vectors[{row}]", vectors[row], "holds a value that is not finite")
    absmax = np.abs(vectors).max(axis=1, initial=0.0).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = (np.float32(1) / absmax) * np.float32(127)
    factor = np.where(np.isfinite(factor), factor, np.float32(0))
    codes = np.rint(vectors * factor[:, None]).astype(np.int8)
    return codes, absmax


def inverse_norms(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """1 / l2 norm of integer codes, 0 for zero rows: (K, d) int8 -> (K,) float32."""
    wide = codes.astype(np.int64)
    squares = np.einsum("kd,kd->k", wide, wide)
    safe = np.maximum(squares, 1)
    return np.where(squares > 0, 1.0 / np.sqrt(safe), 0.0).astype(np.float32)


def record_dtype(dims: tuple[int, ...], attribute_slots: int, codec: int = CONTENT_INT8) -> np.dtype[np.void]:
    """The structured dtype of a content record; dims: the d_m of each modality, in the space's order."""
    if codec not in CONTENT_CODECS:
        raise UnknownVersion("content codec", CODEC_NAMES.get(codec, codec), _CONTENT_NAMES)
    body = ("codes", "i1", (sum(dims),)) if codec == CONTENT_INT8 else ("values", "<f2", (sum(dims),))
    return np.dtype(
        [
            ("version", "u1"),
            ("codec", "u1"),
            ("flags", "u1"),
            ("guard", "u1"),
            ("sequence", "<u8"),
            ("inv_norm", "<f4", (len(dims),)),
            ("attributes", "<u4", (attribute_slots,)),
            body,
        ]
    )


def content_codec(dtype: np.dtype[np.void]) -> int:
    """The codec of a record's dtype."""
    return CONTENT_FP16 if "values" in (dtype.names or ()) else CONTENT_INT8


def encode_records(
    vectors: list[npt.NDArray[np.float32]],
    sequences: npt.NDArray[np.uint64],
    attributes: npt.NDArray[np.uint32],
    codec: int = CONTENT_INT8,
) -> Rows:
    """Unit vectors of K items -> records.

    vectors: one (K, d_m) float32 per modality, an all-zero row where the modality is missing;
    sequences: (K,) uint64; attributes: (K, A) uint32 -> (K,) of `record_dtype`.
    """
    dims = tuple(int(v.shape[1]) for v in vectors)
    rows = np.zeros(len(sequences), dtype=record_dtype(dims, int(attributes.shape[1]), codec))
    rows["version"] = RECORD_VERSION
    rows["codec"] = codec
    rows["sequence"] = sequences
    rows["attributes"] = attributes
    start = 0
    for m, (block, dim) in enumerate(zip(vectors, dims, strict=True)):
        if codec == CONTENT_INT8:
            codes, _ = quantise_absmax(block)
            inv_norm = inverse_norms(codes)
            rows["codes"][:, start : start + dim] = codes
        else:
            values, inv_norm = _halves(block)
            rows["values"][:, start : start + dim] = values
        rows["inv_norm"][:, m] = inv_norm
        rows["flags"] |= np.where(inv_norm == 0, np.uint8(1 << m), np.uint8(0))
        start += dim
    return rows


def _halves(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """(K, d) float32, finite and within fp16 -> (K, d) float16 and 1 / l2 norm of it, 0 for zero rows."""
    bad = ~(np.abs(vectors) <= np.finfo(np.float16).max).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InvalidInput(f"vectors[{row}]", vectors[row], "does not fit fp16")
    values = vectors.astype(np.float16)
    norms = np.linalg.norm(values.astype(np.float32), axis=1)
    safe = np.where(norms > 0, norms, np.float32(1))
    return values, np.where(norms > 0, np.float32(1) / safe, np.float32(0)).astype(np.float32)


def tombstones(dtype: np.dtype[np.void], sequences: npt.NDArray[np.uint64]) -> Rows:
    """Rows that say "deleted at this sequence": (K,) uint64 -> (K,) of dtype, zero behind the header."""
    rows = np.zeros(len(sequences), dtype=dtype)
    rows["version"] = RECORD_VERSION
    rows["codec"] = content_codec(dtype)
    rows["flags"] = TOMBSTONE
    rows["sequence"] = sequences
    return rows


def is_tombstone(rows: Rows) -> npt.NDArray[np.bool_]:
    """(K,) records -> (K,) bool."""
    dead: npt.NDArray[np.bool_] = (rows["flags"] & TOMBSTONE) != 0
    return dead


def stored_bytes(rows: Rows) -> list[bytes]:
    """What goes into the table: a record's bytes, or the header alone for a tombstone."""
    dead = is_tombstone(rows)
    size = rows.dtype.itemsize
    blob = rows.tobytes()
    return [
        blob[i * size : i * size + (HEADER_BYTES if gone else size)] for i, gone in enumerate(dead.tolist())
    ]


def check_records(rows: Rows, what: str, codec: int | None = None) -> None:
    """Refuse rows of a version or codec that this build does not read. rows: (K,), every one present.

    codec: of the space, None = the dtype's; a header's dtype does not tell it.
    """
    expected = content_codec(rows.dtype) if codec is None else codec
    bad = (rows["version"] != RECORD_VERSION) | (rows["codec"] != expected)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        found = (int(rows["version"][i]), CODEC_NAMES.get(int(rows["codec"][i]), int(rows["codec"][i])))
        raise UnknownVersion(f"{what}, row {i}", found, (RECORD_VERSION, CODEC_NAMES[expected]))


def decode_vectors(rows: Rows, dims: tuple[int, ...]) -> list[npt.NDArray[np.float32]]:
    """Records -> unit vectors, one (K, d_m) float32 per modality, zero where missing."""
    starts = np.cumsum((0, *dims))
    body = rows["values"] if content_codec(rows.dtype) == CONTENT_FP16 else rows["codes"]
    return [
        body[:, starts[m] : starts[m + 1]].astype(np.float32) * rows["inv_norm"][:, m : m + 1]
        for m in range(len(dims))
    ]


def id_row_dtype(codec: int, dim: int) -> np.dtype[np.void]:
    """The structured dtype of an ID row."""
    head: list[tuple[str, str]] = [("version", "u1"), ("codec", "u1"), ("evidence", "<f2")]
    if codec == ID_INT8:
        return np.dtype([*head, ("scale", "<f4"), ("codes", "i1", (dim,))])
    if codec == ID_FP16:
        return np.dtype([*head, ("values", "<f2", (dim,))])
    raise UnknownVersion("ID row codec", CODEC_NAMES.get(codec, codec), ("id_int8", "id_fp16"))


def encode_id_rows(
    vectors: npt.NDArray[np.float32], evidence: npt.NDArray[np.float32], codec: int = ID_INT8
) -> Rows:
    """Trained rows -> ID rows. vectors: (K, d) float32; evidence: (K,) float32 log1p counts."""
    rows = np.zeros(len(vectors), dtype=id_row_dtype(codec, int(vectors.shape[1])))
    rows["version"] = ID_ROW_VERSION
    rows["codec"] = codec
    rows["evidence"] = evidence
    if codec == ID_INT8:
        codes, absmax = quantise_absmax(vectors)
        rows["codes"] = codes
        rows["scale"] = absmax * np.float32(1 / 127)
        return rows
    values = np.asarray(vectors, dtype=np.float32)
    if not (np.abs(values) <= np.finfo(np.float16).max).all():
        raise InvalidInput("vectors", float(np.abs(values).max()), "does not fit fp16")
    rows["values"] = values
    return rows


def check_id_rows(rows: Rows, codec: int) -> None:
    """Refuse ID rows of another version or codec. rows: (K,), every one present."""
    bad = (rows["version"] != ID_ROW_VERSION) | (rows["codec"] != codec)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise UnknownVersion(
            f"ID row {i}", (int(rows["version"][i]), int(rows["codec"][i])), (ID_ROW_VERSION, codec)
        )


def decode_id_rows(rows: Rows) -> npt.NDArray[np.float32]:
    """ID rows -> (K, d) float32."""
    values: npt.NDArray[np.float32]
    if "codes" in (rows.dtype.names or ()):
        values = rows["codes"].astype(np.float32) * rows["scale"][:, None]
    else:
        values = rows["values"].astype(np.float32)
    return values
