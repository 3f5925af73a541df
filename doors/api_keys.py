"""API keys by role. Only digests are held, and a key that is shown is compared with all of them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from contracts.errors import Forbidden, InvalidInput, Unauthenticated

log = logging.getLogger(__name__)
LEAST_KEY = 16  # characters
Role = Literal["score", "push", "admin"]
ROLES: tuple[Role, ...] = ("score", "push", "admin")
_LOOK_EVERY_S = 1.0
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_HEADERS = ("x-api-key", "authorization")


class ApiKeys:
    """From settings, a file, or both."""

    def __init__(self, text: str | None, file: Path | None) -> None:
        """text: `role key` pairs between commas; file: the same, line by line. InvalidInput shows no key."""
        self._given = _parse(text.split(",") if text else [], "api_keys")
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = 0.0
        self._read: dict[bytes, Role] = {}
        if file is not None:
            self._seen = _stamp(file)
            self._read = _read(file)
        if not self._given and not self._read:
            raise InvalidInput("api_keys_file" if file else "api_keys", "…", "holds no key")

    def check(self, headers: Mapping[str, str], role: Role) -> None:
        """Nothing where the headers (lower case) show a key of this role, or of an admin.

        Raises Unauthenticated, Forbidden.
        """
        self._reload()
        shown = shown_key(headers)
        if shown is None:
            raise Unauthenticated("an API key is needed: Authorization: Bearer <key>, or X-API-Key")
        digest = hashlib.sha256(shown.encode()).digest()
        found: Role | None = None
        for held in (self._given, self._read):
            for known, its_role in held.items():
                if hmac.compare_digest(known, digest):
                    found = its_role
        if found is None:
            raise Unauthenticated("the API key is not known")
        if found not in (role, "admin"):
            raise Forbidden(f"a key of role {found} may not do this: it needs {role} or admin")

    def _reload(self) -> None:
        """The file again where it has changed; one that cannot be used changes nothing."""
        if self._file is None or time.monotonic() < self._looked_at + _LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        try:
            stamp = _stamp(self._file)
            if stamp != self._seen:
                self._seen = stamp
                self._read = _read(self._file)
                log.info("API keys read again: %d", len(self._read))
        except InvalidInput as error:
            log.error("the API keys of before stay: %s", error)


def shown_key(headers: Mapping[str, str]) -> str | None:
    """The key of X-API-Key, else the token of `Authorization: Bearer`."""
    plain, bearer = (headers.get(name, "") for name in _HEADERS)
    if plain:
        return plain
    scheme, _, token = bearer.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise InvalidInput("api_keys_file", "a path", f"cannot be read: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path) -> dict[bytes, Role]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("api_keys_file", "a path", f"cannot be read: {type(error).__name__}") from None
    return _parse([line.partition("#")[0] for line in lines], "api_keys_file")


def _parse(pairs: list[str], field: str) -> dict[bytes, Role]:
    """Digest -> role. Messages hold no key."""
    found: dict[bytes, Role] = {}
    for n, pair in enumerate(pairs, 1):
        words = pair.split()
        if not words:
            continue
        where = f"{field}[{n}]"
        if len(words) != 2 or words[0] not in ROLES:
            raise InvalidInput(where, "…", f"must be one of {ROLES}, then a key")
        hashed = _HASHED.fullmatch(words[1])
        if hashed is None and len(words[1]) < LEAST_KEY:
            raise InvalidInput(where, "…", f"must have {LEAST_KEY} characters or more, or be sha256:<hex>")
        digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(words[1].encode()).digest()
        if digest in found:
            raise InvalidInput(where, "…", "is there twice")
        found[digest] = words[0]
    return found
