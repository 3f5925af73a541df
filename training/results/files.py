"""Files of a comparison that several processes share: written whole or not at all, made by one of them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path`, or give False where another process holds it and `wait` is False.

    The lock belongs to the process: it is free again when that one ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def write_json(path: Path, document: Any) -> None:
    """Replace the file at once."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(part, path)


def write_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Replace the .npz at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The .npz back."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)
