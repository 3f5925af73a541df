"""Servers of a test's own whose users are our roles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from param_server.access import ROLES, users_file
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings

PASSWORDS = {role: f"a password of {role}" for role in ROLES}


@dataclass(frozen=True)
class Guarded:
    """Two servers with users files, one of tables and one of streams."""

    tables: EmbeddedServer
    streams: EmbeddedServer

    def settings(self, role: str, var: Path) -> StoreSettings:
        """A process's, as a role."""
        return StoreSettings(
            redis_url=url_of(self.tables, role), stream_url=url_of(self.streams, role), var_dir=var
        )


def url_of(server: EmbeddedServer, role: str) -> str:
    password = PASSWORDS[role].replace(" ", "%20")
    return server.url.replace("unix://", f"unix://{ROLES[role].user}:{password}@")


@contextmanager
def guarded_server(folder: Path, binary: Path | None = None) -> Iterator[EmbeddedServer]:
    """A server that is started with our users file. binary: of Redis 7.0; None: the embedded one."""
    folder.mkdir()
    users = folder / "users.acl"
    users.write_text(users_file(PASSWORDS, before_7_2=binary is not None))
    with EmbeddedServer.start(folder / "data", extra_args=("--aclfile", str(users)), binary=binary) as server:
        yield server


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    with ExitStack() as closing:
        yield Guarded(
            *(closing.enter_context(guarded_server(folder / name)) for name in ("tables", "streams"))
        )
