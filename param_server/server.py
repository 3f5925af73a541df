"""A server of the tables: one Redis or Valkey, or a cluster of them. What both can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot

from param_server.cluster import Cluster
from param_server.commands import Commands, Replies, commands, send_to
from param_server.link import Link, link_of
from param_server.round_trip import raise_error
from param_server.slot_map import Address

Server = Redis | Cluster


async def send(server: Server, given: Commands, after: Sequence[bytes] = ()) -> Replies:
    """Commands in one round trip (of a cluster: to every node at once), and on each of its connections then
    `after`. Raises what the client raises; errors among the replies are not raised."""
    if isinstance(server, Cluster):
        return await server.send(given, after)
    return await send_to(server, given, after)


async def try_send(server: Server, given: Commands) -> list[Any]:
    """Commands in one round trip, once -> their replies; what a node of a cluster refuses or does not answer
    is an exception in its place. Of one server raises what the client raises."""
    if isinstance(server, Cluster):
        return await server.send_once(given)
    return (await send_to(server, given)).values


def home(server: Server, key: bytes) -> Address | None:
    """The node of a key as it is known now; None of one server."""
    return server.slots.owner(key_slot(key)) if isinstance(server, Cluster) else None


def failed_over(server: Server, before: Address | None) -> bool:
    """Whether the node that was a key's home holds nothing any more: who took its place may lack its last
    moments. A slot that moved leaves others behind."""
    if before is None or not isinstance(server, Cluster):
        return False
    return before not in server.slots.slots_of_primaries()


async def primaries(server: Server) -> dict[str, Redis]:
    """The servers that hold rows, by address: what is asked of a server as a whole is asked of each."""
    if isinstance(server, Cluster):
        return {f"{host}:{port}": node for (host, port), node in (await server.primaries()).items()}
    return {"": server}


def replicas(server: Server) -> dict[str, Redis]:
    """Those of a cluster's primaries, by address, as they are known now; of one server none."""
    if not isinstance(server, Cluster):
        return {}
    known = [address for of_one in server.slots.replicas.values() for address in of_one]
    return {f"{host}:{port}": server.node((host, port)) for host, port in known}


def links(server: Server) -> list[Link]:
    """The links of a client of `connection.connect`: one, or of a cluster each node's that was spoken to."""
    return [link_of(node) for node in server.nodes] if isinstance(server, Cluster) else [link_of(server)]


async def ask(server: Server, *given: Sequence[bytes]) -> list[Any]:
    """Commands, each of its words, the second one its key, in one round trip -> their replies as the server
    gave them. Raises what the client raises, and the first error among the replies."""
    replies = (await send(server, commands(given))).values
    raise_error(replies)
    return replies
