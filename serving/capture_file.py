"""A captured request as bytes: all that its scores were made of, so that they can be made again.

| offset | bytes             |                                                                     |
| ------ | ----------------- | ------------------------------------------------------------------- |
| 0      | 20                | "repcenter capture 1\\n", the version of this layout                 |
| 20     | 8                 | size of the head, u64 little endian                                 |
| 28     | head              | JSON: request, time, generation, item ids, timings, build           |
|        | K x record        | records as the tables gave them, zero where not found               |
|        | K                 | found, 0 or 1                                                       |
|        | K x ID row        | likewise                                                            |
|        | K                 | found, 0 or 1                                                       |
|        | 4 N               | scores, float32, NaN where missing                                  |
| end-32 | 32                | sha256 of everything before                                         |
"""

from __future__ import annotations

import hashlib
import platform
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from contracts.codec import id_row_dtype
from contracts.errors import InvalidInput, RepcenterError, UnknownVersion
from contracts.manifest import Generation, parse_generation
from contracts.onnx_model import check_runtime
from contracts.request import Behaviour, ScoreRequest, check_request
from contracts.scores import Timings
from param_server.store import Fetched

CAPTURE_VERSION = 1
_NAME = b"repcenter capture "
_MAGIC = b"%s%d\n" % (_NAME, CAPTURE_VERSION)
_SIZE = struct.Struct("<Q")
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class Capture:
    """request: with its id and the behaviours that were read; now_ms: what counted as now; item_ids: K, those
    behind `fetched`; scores: (N,), NaN where missing; build: what they were computed with (`this_build`)."""

    request: ScoreRequest
    now_ms: int
    generation: Generation
    item_ids: list[str]
    fetched: Fetched
    scores: npt.NDArray[np.float32]
    timings: Timings
    build: Mapping[str, Any]


def this_build(device: str, threads: int, kernels: bool, buckets: bool = False) -> dict[str, Any]:
    """What two runs must have in common to give identical scores."""
    runtime = check_runtime()
    return {
        "repcenter": version("repcenter"),
        runtime: version(runtime),
        "machine": platform.machine(),
        "device": device,
        "threads": threads,
        "kernels": kernels,
        **({"shape_buckets": True} if buckets else {}),
    }


def encode_capture(capture: Capture) -> bytes:
    fetched = capture.fetched
    head = orjson.dumps(
        {
            "request": _document(capture.request),
            "now_ms": capture.now_ms,
            "generation": capture.generation.to_bytes().decode(),
            "item_ids": capture.item_ids,
            "stale": fetched.stale,
            "timings": asdict(capture.timings),
            "build": dict(capture.build),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    arrays = (fetched.records, fetched.found, fetched.id_rows, fetched.id_found, capture.scores)
    data = b"".join((_MAGIC, _SIZE.pack(len(head)), head, *(array.tobytes() for array in arrays)))
    return data + hashlib.sha256(data).digest()


def _document(request: ScoreRequest) -> dict[str, Any]:
    """What was to be encoded has been: its vectors and records are here, and pictures are no JSON."""
    document = asdict(request)
    for name in ("query_text", "query_image", "contents"):
        del document[name]
    return document


def decode_capture(data: bytes, where: str) -> Capture:
    """Back, checked. Raises InvalidInput that names `where`, UnknownVersion."""
    first = data[:64].split(b"\n", 1)[0]
    if first.startswith(_NAME) and first + b"\n" != _MAGIC:
        raise UnknownVersion(where, first[len(_NAME) :].decode(errors="replace"), CAPTURE_VERSION)
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise InvalidInput(where, len(data), "is no captured request, or a damaged one")
    try:
        return _decode(body)
    except (RepcenterError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise InvalidInput(where, len(data), f"is no captured request: {error}") from error


def _decode(body: bytes) -> Capture:
    at = len(_MAGIC) + _SIZE.size
    end = at + _SIZE.unpack_from(body, len(_MAGIC))[0]
    head = orjson.loads(body[at:end])
    generation = parse_generation(head["generation"].encode())
    behaviours = [Behaviour(**b) for b in head["request"].pop("behaviours")]
    request = check_request(ScoreRequest(**head["request"], behaviours=behaviours))
    count, table = len(head["item_ids"]), generation.id_table
    flags, scores = np.dtype(np.bool_), np.dtype("<f4")
    wanted = [
        (generation.space.dtype, count),
        (flags, count),
        (id_row_dtype(table.codec, table.dim), count),
        (flags, count),
        (scores, len(request.candidates)),
    ]
    sizes = [dtype.itemsize * rows for dtype, rows in wanted]
    if end + sum(sizes) != len(body):
        raise ValueError(f"{len(body) - end} bytes of arrays, not {sum(sizes)}")
    arrays: list[npt.NDArray[Any]] = []
    for (dtype, rows), size in zip(wanted, sizes, strict=True):
        arrays.append(np.frombuffer(body, dtype, rows, end))
        end += size
    records, found, id_rows, id_found, answered = arrays
    return Capture(
        request,
        int(head["now_ms"]),
        generation,
        [str(item_id) for item_id in head["item_ids"]],
        Fetched(records, found, id_rows, id_found, bool(head["stale"])),
        answered,
        Timings(**head["timings"]),
        dict(head["build"]),
    )
