"""Pictures by path, in an object store or a local directory: below configured roots only.

A path is taken as it is written: no part of it is decoded, chained (`simplecache::…`) or resolved upwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from realtime_infer.fetch_http import Passing

_FIELD = "image_url"
_LOCAL = "file"
_LOCAL_TOO = "local"  # fsspec's other name of it
_WEB = ("http", "https")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError)


@dataclass(frozen=True)
class ObjectPath:
    """protocol: of fsspec. path: without it, "/"-separated, absolute where it is local."""

    protocol: str
    path: str

    def holds(self, other: ObjectPath) -> bool:
        """Whether the other path lies below this one."""
        return self.protocol == other.protocol and other.path.startswith(self.path.rstrip("/") + "/")


def object_path(text: str, field: str) -> ObjectPath:
    """`s3://bucket/key`, `file:///a/b` or `/a/b`. Raises InvalidInput that names the field."""
    protocol, sign, path = (_LOCAL, "://", text) if text.startswith("/") else text.partition("://")
    protocol = _LOCAL if protocol.lower() == _LOCAL_TOO else protocol.lower()
    if not sign or not protocol.isalnum() or protocol in _WEB or "::" in text or "\\" in text:
        raise InvalidInput(field, text, "must be the path of an object, such as s3://bucket/key")
    inner = path.removeprefix("/") if protocol == _LOCAL else path
    if protocol == _LOCAL and inner == path:
        raise InvalidInput(field, text, "must be an absolute path")
    if not text.isprintable() or any(part in ("", ".", "..") for part in inner.split("/")):
        raise InvalidInput(field, text, "must not have empty parts, dots as parts or control characters")
    return ObjectPath(protocol, path)


class ObjectFetcher:
    """Reads objects below its roots."""

    def __init__(self, roots: Sequence[str], field: str = "image_roots") -> None:
        """Raises InvalidInput where a root is no path or needs a package that is not installed."""
        self._roots: list[ObjectPath] = []
        self._real: list[ObjectPath] = []  # the local ones, links followed
        for text in roots:
            root = object_path(text.rstrip("/"), field)
            try:
                fsspec.get_filesystem_class(root.protocol)
            except (ImportError, ValueError) as error:
                raise InvalidInput(field, text, str(error)) from error
            self._roots.append(root)
            if root.protocol == _LOCAL:
                self._real.append(ObjectPath(_LOCAL, os.path.realpath(root.path)))

    def check(self, url: str) -> ObjectPath:
        """The path, where it lies below a root; else InvalidInput."""
        found = object_path(url, _FIELD)
        if not any(root.holds(found) for root in self._roots):
            raise InvalidInput(_FIELD, url, "lies below no root of pictures that is allowed here")
        return found

    def fetch(self, url: str) -> bytes:
        """The object. Blocks. Raises InvalidInput, TooLarge, or Passing where another try may help."""
        found = self.check(url)
        try:
            return self._read_local(found, url) if found.protocol == _LOCAL else _read_remote(found, url)
        except _FINAL as error:
            raise InvalidInput(_FIELD, url, f"cannot be read ({type(error).__name__})") from error
        except (InvalidInput, TooLarge):
            raise
        except Exception as error:  # each store raises its own
            raise Passing(f"could not be read ({type(error).__name__}: {str(error)[:200]})") from error

    def _read_local(self, found: ObjectPath, url: str) -> bytes:
        real = os.path.realpath(found.path)  # a link may lead elsewhere
        if not any(root.holds(ObjectPath(_LOCAL, real)) for root in self._real):
            raise InvalidInput(_FIELD, url, "leads out of the roots of pictures that are allowed here")
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe would block
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(_FIELD, url, "is not a file")
            return _checked(file.read(MAX_IMAGE_BYTES + 1))


def _read_remote(found: ObjectPath, url: str) -> bytes:
    store = fsspec.filesystem(found.protocol)
    info = store.info(found.path)
    size = info.get("size")
    if info.get("type") != "file" or not isinstance(size, int) or size == 0:
        raise InvalidInput(_FIELD, url, "is not an object with content")
    if size > MAX_IMAGE_BYTES:
        raise TooLarge(_FIELD, size, MAX_IMAGE_BYTES, "bytes")
    body: bytes = store.cat_file(found.path, start=0, end=size)
    return _checked(body)


def _checked(body: bytes) -> bytes:
    if len(body) > MAX_IMAGE_BYTES:
        raise TooLarge(_FIELD, len(body), MAX_IMAGE_BYTES, "bytes or more")
    return body
