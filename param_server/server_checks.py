"""What a server must be like before it is used: asked at start-up, refused with the command that mends it."""

from __future__ import annotations

import logging
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from contracts.errors import NotPermitted, Unavailable
from contracts.items import MAX_ID_BYTES
from contracts.space import ROWS_PER_BUCKET
from param_server.connection import redis_errors
from param_server.server import Server, primaries, replicas
from param_server.slot_map import LOST

log = logging.getLogger(__name__)

VALUE_LIMIT, ENTRIES_LIMIT = "hash-max-listpack-value", "hash-max-listpack-entries"
LISTPACK_VALUE = 8_192  # bytes: the largest record is about 7,400
LISTPACK_ENTRIES = 512
LEAST_ENTRIES = 4 * ROWS_PER_BUCKET  # a catalogue may outgrow the count that its space was made for

Durability = Literal["always", "waitaof"]


async def run_id(server: Server) -> str:
    """Changes when the server is restarted, or a cluster's primary is, or is replaced. Raises Unavailable."""
    async with redis_errors("ask which server this is"):
        nodes = (await primaries(server)).values()
        return " ".join(sorted([str((await node.info("server"))["run_id"]) for node in nodes]))


async def check_policy(server: Server) -> None:
    """Refuse a server whose maxmemory-policy would evict rows (allkeys-*), on any primary of a cluster.
    Ours never expire, so volatile-* cannot touch them. Raises Unavailable with the command that fixes
    it."""
    async with redis_errors("read the memory policy"):
        for address, redis in (await primaries(server)).items():
            memory = await redis.info("memory")
            policy = str(memory.get("maxmemory_policy", "unknown"))
            if policy.startswith("allkeys-"):
                raise Unavailable(
                    f"{_at(address)}maxmemory-policy is {policy}: the server would drop rows and scores "
                    "would go wrong unseen; run: CONFIG SET maxmemory-policy noeviction"
                )


async def check_layout(server: Server, row_bytes: int) -> None:
    """Refuse a server that would store rows of so many bytes as hash tables, not as packed blocks: right,
    but a third larger. Every primary of a cluster is looked at.

    Raises Unavailable with the command that fixes it. Where the server hides its settings, as managed ones
    do, that is logged: the operator has to see to them.
    """
    async with redis_errors("read the settings of hashes"):
        for address, redis in (await primaries(server)).items():
            await _check_layout(address, redis, row_bytes)


async def _check_layout(address: str, redis: Redis, row_bytes: int) -> None:
    least = {VALUE_LIMIT: max(row_bytes, MAX_ID_BYTES), ENTRIES_LIMIT: LEAST_ENTRIES}
    fix = {VALUE_LIMIT: max(LISTPACK_VALUE, row_bytes), ENTRIES_LIMIT: LISTPACK_ENTRIES}
    try:
        config = await redis.config_get("hash-max-listpack-*")
    except ResponseError as error:
        log.warning(
            "CONFIG GET is refused (%s), so the layout of hashes cannot be checked; "
            "run: ACL SETUSER <user> +config|get, or see to it that %s",
            error,
            " and ".join(f"{name} is at least {value}" for name, value in least.items()),
        )
        return
    found = {_text(name): int(_text(value)) for name, value in dict(config).items()}
    small = [name for name, value in least.items() if found.get(name, 0) < value]
    if small:
        raise Unavailable(
            f"{_at(address)}{small[0]} is {found.get(small[0], 'unknown')}, rows need {least[small[0]]}: the "
            "server would keep them as hash tables; run: CONFIG SET "
            + " ".join(f"{name} {fix[name]}" for name in small)
        )


async def check_durable(server: Server) -> Durability:
    """How a write becomes durable before it is acknowledged.

    "always": each write is on disk before its reply (appendfsync always). "waitaof": appendfsync
    everysec and WAITAOF, to be sent on the connection of the write. Every primary of a cluster is asked, and
    its replicas, which may take over; one that does not answer is passed over. Raises Unavailable with the
    command that fixes it.
    """
    async with redis_errors("read the persistence settings"):
        found = [await _durability(address, redis) for address, redis in (await primaries(server)).items()]
        for address, redis in replicas(server).items():
            try:
                found.append(await _durability(address, redis))
            except LOST as error:
                log.warning("%s: whether this replica keeps what it gets is not known: %s", address, error)
    return "always" if set(found) == {"always"} else "waitaof"


async def _durability(address: str, redis: Redis) -> Durability:
    config = await _config(redis, "append*")
    appendonly, fsync = config.get("appendonly"), config.get("appendfsync")
    if appendonly != "yes":
        raise Unavailable(
            f"{_at(address)}appendonly is {appendonly}: what is acknowledged would be lost with the process; "
            "run: CONFIG SET appendonly yes appendfsync always"
        )
    if fsync == "always":
        return "always"
    if fsync == "everysec" and await _has_command(redis, "WAITAOF"):
        return "waitaof"
    raise Unavailable(
        f"{_at(address)}appendfsync is {fsync}: what is acknowledged may be lost with the machine; "
        "run: CONFIG SET appendfsync always"
    )


async def _config(redis: Redis, pattern: str) -> dict[str, str]:
    try:
        reply = await redis.config_get(pattern)
    except ResponseError as error:
        raise NotPermitted(
            f"CONFIG GET is refused ({error}), so durability cannot be checked; run: "
            "ACL SETUSER <user> +config|get"
        ) from error
    return {_text(name): _text(value) for name, value in dict(reply).items()}


async def _has_command(redis: Redis, name: str) -> bool:
    known = await redis.command_list(category=None, pattern=name)
    return len(known) == 1


def _at(address: str) -> str:
    return f"{address}: " if address else ""


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
