"""Files that are whole or not there at all, in a directory or an object store (fsspec)."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any


def write_whole(filesystem: Any, path: str, data: memoryview) -> None:
    """Write a file in place of one of the same name; its folder is made. On a local disk it is synced."""
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    if "file" in filesystem.protocol:
        write_local(Path(path), data)
    else:
        filesystem.pipe_file(path, bytes(data))  # object stores show a file when it is complete


def write_local(path: Path, data: memoryview) -> None:
    """The same on a local disk; the folder is there."""
    part = Path(f"{path}.{uuid.uuid4().hex}.part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    folder = os.open(part.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
