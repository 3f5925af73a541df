"""A generation from its bundles: the ranker's ID rows into their table, then published.

Every step is idempotent, so what was interrupted is done again, and what a lost server had comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from contracts.bundle import Bundle, open_bundle
from contracts.errors import Conflict, InvalidInput
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.server import Server
from param_server.store import Store

_ROWS = 16_384
Progress = Callable[[int, int], None]  # ID rows done, in all


def _silent(done: int, total: int) -> None:
    """A Progress that shows nothing."""


async def publish_ranker(
    redis: Server,
    ranker_uri: str,
    *,
    encoder_uri: str | None = None,
    id_table: str | None = None,
    progress: Progress = _silent,
) -> Generation:
    """Load a ranker's ID rows, publish it with the encoder of its space; what is published already is found.

    encoder_uri: None = as in an earlier generation of the same encoder, "" = vectors made elsewhere;
    id_table: name of the table, None = after the bundle's digest. Raises as Generations.publish() does,
    InvalidInput where no earlier generation names the encoder.
    """
    bundle, spec = await asyncio.to_thread(_open, ranker_uri, None)
    table = IdTable(
        id_table or f"items-{bundle.digest[:16]}",
        spec.id_codec,
        spec.schema.id_dim,
        spec.id_row_count,
        spec.id_base,
    )
    known = await Generations(redis).list()
    digest = spec.space.encoder_digest
    if encoder_uri is None:
        encoder_uri = next((g.encoder_uri for g in reversed(known) if g.encoder_digest == digest), None)
        if encoder_uri is None:
            raise InvalidInput(
                "encoder", None, f"must name the bundle of encoder {digest[:12]}: none is known"
            )
    elif encoder_uri:
        encoder = await asyncio.to_thread(open_bundle, encoder_uri, digest)
        if encoder.manifest.kind != "encoder":
            raise InvalidInput("encoder", encoder_uri, f"is a bundle of kind {encoder.manifest.kind}")
    for found in known:
        parts = (found.ranker_uri, found.ranker_digest, found.encoder_uri, found.space, found.id_table)
        if parts == (ranker_uri, bundle.digest, encoder_uri, spec.space, table):
            await republish(redis, found, progress)
            return found
    now = time.time_ns() // 1_000_000
    generation = Generation(now, encoder_uri, digest, spec.space, ranker_uri, bundle.digest, table)
    await republish(redis, generation, progress)
    return generation


async def republish(redis: Server, generation: Generation, progress: Progress = _silent) -> None:
    """Publish a generation; where its ID table is not there, its rows are loaded from the ranker's bundle.

    The space must be there, with its records. Raises as Generations.publish() does.
    """
    store, table = Store(redis), generation.id_table
    await store.space(generation.space.id)
    if not await store.id_table_ready(table):
        bundle, spec = await asyncio.to_thread(_open, generation.ranker_uri, generation.ranker_digest)
        path = bundle.file(spec.id_rows)
        ids, rows = await asyncio.to_thread(read_id_rows, path, table.codec, table.dim)
        for at in range(0, len(ids), _ROWS):
            part = slice(at, at + _ROWS)
            await store.load_id_rows(table, ids[part], rows[part])
            progress(min(at + _ROWS, len(ids)), len(ids))
        await store.seal_id_table(table)
    await Generations(redis).publish(generation)


def _open(uri: str, digest: str | None) -> tuple[Bundle, RankerSpec]:
    bundle = open_bundle(uri, digest)
    if bundle.manifest.kind != "ranker":
        raise Conflict(f"bundle {uri} is of kind {bundle.manifest.kind}, not ranker")
    return bundle, ranker_spec_from_json(dict(bundle.manifest.content))
