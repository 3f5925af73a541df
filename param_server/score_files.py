"""Parquet files of answered score requests: what the score log writes and `repcenter data join` reads.

One row per request, in `<root>/<day>/scores-<first ms>-<process>-<number>.parquet`:

| column             | type           |                                                              |
| ------------------ | -------------- | ------------------------------------------------------------ |
| request_id         | string         |                                                              |
| scene, generation  | string         |                                                              |
| user_id            | string         | null where the request names nobody                          |
| timestamp_ms       | int64          | when the request was made: its own time, else the scorer's   |
| candidates         | list of string | in request order                                             |
| sequences          | list of uint64 | of the record that was read of each candidate, 0 = none      |
| statuses           | list of uint8  | contracts.scores: ok, cold, missing, default, encoded        |
| scores             | list of float  | null where missing                                           |
| behaviours         | list of string | those that the ranker read, newest last                      |
| behaviour_sequences| list of uint64 | as `sequences`                                               |
| user, context      | string         | JSON objects, as the request said them; "" where it did not  |
| query              | string         | JSON object of vectors by modality, "" where there was none  |

The file's metadata carries the version of this layout.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InvalidInput, NotFound, UnknownVersion
from param_server.whole_files import write_whole

SCORE_FILE_VERSION = 1
_VERSION_KEY = b"repcenter.scores.version"
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("scene", pa.string()),
        ("generation", pa.string()),
        ("user_id", pa.string()),
        ("timestamp_ms", pa.int64()),
        ("candidates", pa.list_(pa.string())),
        ("sequences", pa.list_(pa.uint64())),
        ("statuses", pa.list_(pa.uint8())),
        ("scores", pa.list_(pa.float32())),
        ("behaviours", pa.list_(pa.string())),
        ("behaviour_sequences", pa.list_(pa.uint64())),
        ("user", pa.string()),
        ("context", pa.string()),
        ("query", pa.string()),
    ],
    {_VERSION_KEY: str(SCORE_FILE_VERSION).encode()},
)


class ScoreFiles:
    """Files under one root, a directory or any fsspec URL. Blocking I/O."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._filesystem: Any
        try:
            self._filesystem, base = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError, TypeError, AttributeError) as error:
            raise InvalidInput("score log", root, f"cannot be opened: {error}") from error
        self._base = base.rstrip("/")

    def write(self, name: str, rows: Mapping[str, pa.Array] | pa.Table) -> str:
        """A whole file or none, in place of one of the same name -> its path. name: with its day's folder."""
        table = rows if isinstance(rows, pa.Table) else pa.table(dict(rows), schema=SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        path = f"{self._base}/{name}"
        write_whole(self._filesystem, path, sink.getbuffer())
        return path

    def names(self) -> list[str]:
        """Paths of all files, oldest day first. NotFound where there is none."""
        self._filesystem.invalidate_cache()
        try:
            found = self._filesystem.find(self._base)
        except (FileNotFoundError, NotADirectoryError):
            found = []
        names = sorted(n for n in found if n.endswith(".parquet") and "/scores-" in n)
        if not names:
            raise NotFound("score log", self.root)
        return names

    def read(self, names: list[str]) -> Iterator[pa.Table]:
        """Each file's rows. Raises InvalidInput, UnknownVersion, which name the file."""
        for path in names:
            try:
                table = pq.read_table(io.BytesIO(self._filesystem.cat_file(path)))
            except pa.ArrowInvalid as error:
                raise InvalidInput("score log", path, f"is not a Parquet file: {error}") from error
            version = (table.schema.metadata or {}).get(_VERSION_KEY)
            if version != str(SCORE_FILE_VERSION).encode():
                raise UnknownVersion(path, version, SCORE_FILE_VERSION)
            if not table.schema.equals(SCHEMA):
                raise InvalidInput(path, table.schema.names, f"must have columns {SCHEMA.names}")
            yield table
