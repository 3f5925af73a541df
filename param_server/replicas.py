"""Writes that wait for replicas (WAIT), so that a failover does not lose what was acknowledged.

WAIT is not consensus: docs/cluster.md says what a failover may still lose. It waits for the writes of its own
connection only, so every script writes something even where it has nothing to change: a repeated write
waits too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from contracts.errors import Unavailable
from param_server.commands import Commands, Replies, commands, pack
from param_server.round_trip import raise_error
from param_server.server import Server, send


@dataclass(frozen=True)
class Wait:
    """How many replicas must have a write, and how long to wait for them."""

    replicas: int
    timeout_ms: int


_WAITS: WeakKeyDictionary[Server, Wait] = WeakKeyDictionary()


def wait_for(server: Server, wait: Wait) -> None:
    """From now on write() waits so on this client."""
    _WAITS[server] = wait


async def write(
    server: Server, given: Commands, after: Sequence[bytes] = (), *, partly: bool = False
) -> Replies:
    """Writes, the packed commands `after` on each of their connections, and then the wait -> their replies.

    partly: errors stay among the replies, unless there is nothing else. Raises what the client raises, the
    first error among the replies, and Unavailable where too few replicas
    have the writes in time: they are done, but a failover may lose them, so they are to be repeated.
    """
    wait = _WAITS.get(server)
    if wait is None or wait.replicas == 0:
        replies = await send(server, given, after)
        _raise(replies.values, partly)
        return replies
    waiting = pack([b"WAIT", b"%d" % wait.replicas, b"%d" % wait.timeout_ms])
    replies = await send(server, given, [*after, waiting])
    _raise(replies.values, partly)
    for *_, reached in replies.after:
        raise_error([reached])
        if reached < wait.replicas:
            raise Unavailable(
                f"{reached} of {wait.replicas} replicas have the write after {wait.timeout_ms} ms: "
                "a failover may lose it; repeat it"
            )
    return Replies(replies.values, [said[:-1] for said in replies.after])


def _raise(values: Sequence[object], partly: bool) -> None:
    if not partly or all(isinstance(value, Exception) for value in values):
        raise_error(values)


async def write_control(server: Server, *given: Sequence[bytes]) -> list[object]:
    """Small writes of one slot, each of its words, the second one its key -> their replies. As write()."""
    return (await write(server, commands(given))).values
