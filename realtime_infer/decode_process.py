"""A process that decodes pictures and does nothing else.

`python -m realtime_infer.decode_process FD MIB SECONDS`, FD a stream socket to its owner. It says READY, then
answers one request at a time until the socket ends:

| message | bytes | field                                                                |
| ------- | ----- | -------------------------------------------------------------------- |
| request | 4     | u32, bytes of the picture                                            |
|         | 2, 2  | u16 height, u16 width of the pixels wanted                           |
|         | ...   | the picture                                                          |
| answer  | 1     | 0 ready, 1 pixels, 2 refused                                         |
|         | 4     | u32, bytes that follow                                               |
|         | ...   | pixels (height, width, 3) uint8; refused: the problem document, JSON |

The kernel ends it where one picture takes more than SECONDS of processor time (SIGPROF), and it ends itself
where one needs more than MIB of memory (OUT_OF_MEMORY). It has no environment of its owner's, opens no files
and writes none.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path

import orjson
from PIL import Image

from contracts.errors import RepcenterError
from contracts.images import decode_pixels
from contracts.problem import problem

REQUEST, ANSWER = struct.Struct("<IHH"), struct.Struct("<BI")
READY, PIXELS, REFUSED = 0, 1, 2
OUT_OF_MEMORY = 77
_OPEN_FILES = 16


def main() -> None:
    descriptor, mebibytes, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with socket.socket(fileno=descriptor) as owner:
        Image.init()  # every plugin is loaded before files can no longer be opened
        _confine(mebibytes)
        owner.sendall(ANSWER.pack(READY, 0))
        while head := _read(owner, REQUEST.size):
            count, height, width = REQUEST.unpack(head)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            kind, body = _answer(_read(owner, count), height, width)
            signal.setitimer(signal.ITIMER_PROF, 0)
            owner.sendall(ANSWER.pack(kind, len(body)) + body)


def _answer(picture: bytes, height: int, width: int) -> tuple[int, bytes]:
    try:
        return PIXELS, decode_pixels(picture, height, width).tobytes()
    except RepcenterError as error:
        if isinstance(error.__cause__, MemoryError):
            os._exit(OUT_OF_MEMORY)
        return REFUSED, orjson.dumps(problem(error, ""))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _read(owner: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; b"" where the owner is gone."""
    buffer = bytearray(count)
    view, at = memoryview(buffer), 0
    while at < count:
        got = owner.recv_into(view[at:])
        if got == 0:
            return b""
        at += got
    return bytes(buffer)


def _confine(mebibytes: int) -> None:
    """Limits that hold whatever a decoder is made to do, short of a system call of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a decoder's complaints about hostile bytes
    for limit, value in (
        (resource.RLIMIT_AS, _address_space() + (mebibytes << 20)),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))


def _address_space() -> int:
    """Bytes mapped already; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main()
