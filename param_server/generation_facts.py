"""Everything that is to know of a generation as flat facts, and in which of them two generations differ."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.bundle import open_bundle
from contracts.errors import NotFound, RepcenterError, Unavailable
from contracts.manifest import Generation
from contracts.ranker_spec import ranker_spec_from_json
from param_server.coverage import Coverage
from param_server.server import Server
from param_server.store import Store

Facts = dict[str, Any]  # dotted name -> JSON value that is no object


@dataclass(frozen=True)
class Difference:
    """One fact that two generations do not share; None: the generation has none of this name."""

    fact: str
    first: Any
    second: Any


def differences(first: Facts, second: Facts) -> list[Difference]:
    """In the order of the facts."""
    names = [*first, *(name for name in second if name not in first)]
    return [
        Difference(name, first.get(name), second.get(name))
        for name in names
        if first.get(name) != second.get(name)
    ]


async def facts_of(redis: Server, generation: Generation, covered: Coverage | None = None) -> Facts:
    """covered: of the live catalogue, None = not measured. A bundle that cannot be opened is a fact, not an
    error. Raises Unavailable."""
    store = Store(redis)
    facts: Facts = {
        "created_ms": generation.created_ms,
        "encoder.digest": generation.encoder_digest,
        "encoder.uri": generation.encoder_uri,
        "space.id": generation.space.id,
        **_flat("space", generation.space.to_json()),
        "space.record_bytes": generation.space.dtype.itemsize,
    }
    try:
        await store.space(generation.space.id)
        facts["space.live"] = await store.count(generation.space)
    except NotFound:
        facts["space.live"] = None
    if covered is not None:
        facts["coverage.content"] = round(covered.content_share, 6)
        facts["coverage.id_rows"] = round(covered.id_row_share, 6)
    facts |= {"ranker.digest": generation.ranker_digest, "ranker.uri": generation.ranker_uri}
    facts |= await asyncio.to_thread(_ranker, generation)
    facts |= _flat("id_table", vars(generation.id_table))
    try:
        facts["id_table.ready"] = await store.id_table_ready(generation.id_table)
    except Unavailable:
        raise
    except RepcenterError as error:
        facts["id_table.ready"] = str(error)
    return facts | _flat("notes", generation.notes)


def _ranker(generation: Generation) -> Facts:
    """The bundle's specification; its space is the generation's. Blocking."""
    try:
        bundle = open_bundle(generation.ranker_uri, generation.ranker_digest)
        document = ranker_spec_from_json(dict(bundle.manifest.content)).to_json()
    except RepcenterError as error:
        return {"ranker.bundle": str(error)}
    del document["space"], document["version"]
    schema = document.pop("schema")
    sizes = {f"ranker.files.{name}": file.size for name, file in sorted(bundle.manifest.files.items())}
    return _flat("ranker.schema", schema) | _flat("ranker", document) | sizes


def _flat(name: str, value: Any) -> Facts:
    """Objects and lists of objects by path; an entry of a list by its name where it has one, so that an
    insertion does not move the others; other lists whole."""
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _flat(f"{name}.{key}", inner).items()}
    if isinstance(value, list | tuple) and value and all(isinstance(entry, Mapping) for entry in value):
        return {
            k: v
            for i, entry in enumerate(value)
            for k, v in _flat(f"{name}.{entry.get('name', i)}", {**entry, "place": i}).items()
        }
    return {name: list(value) if isinstance(value, tuple) else value}
