"""A body of lines as it arrives -> its lines, one too long among them refused alone."""

from __future__ import annotations

from contracts.errors import TooLarge

NDJSON = "application/x-ndjson"


class Lines:
    """Fed with the parts of a body. most_bytes: of a line; of one that is longer nothing is kept."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, part: bytes) -> list[bytes | TooLarge]:
        """The lines that end in this part; blank ones are left out."""
        *ended, rest = part.split(b"\n")
        lines = list[bytes | TooLarge]()
        for end in ended:
            self._add(end)
            lines += self.end()
        self._add(rest)
        return lines

    def end(self) -> list[bytes | TooLarge]:
        """The line that is being read, where there is one."""
        size, line = self._size, b"".join(self._parts)
        self._parts, self._size = [], 0
        if size > self._most:
            return [TooLarge("line", size, self._most, "bytes")]
        return [line] if line.strip() else []

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._most:
            self._parts.clear()
        elif part:
            self._parts.append(part)
