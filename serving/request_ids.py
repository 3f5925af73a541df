"""Names for requests that bring none: unique among all scorers, and cheap."""

from __future__ import annotations

import itertools
import secrets

_BYTES = 8


class RequestIds:
    """16 hexadecimal digits of this process, then a number that grows."""

    def __init__(self) -> None:
        self._prefix, self._numbers = secrets.token_hex(_BYTES), itertools.count()

    def next(self) -> str:
        return f"{self._prefix}{next(self._numbers):016x}"
