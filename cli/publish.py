"""`repcenter generations publish`, `export`, `import`: bundles onto the shelf; what serves, out and back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cli.generations import this_user
from cli.progress import stage
from cli.shelf import with_redis
from contracts.bundle import open_bundle
from contracts.bundle import publish as copy_bundle
from contracts.errors import Conflict, InvalidInput
from contracts.manifest import Generation
from param_server.publication import Progress, publish_ranker
from param_server.publication_file import Published, Restored, read_published, restore
from param_server.server import Server


def publish_bundles(
    var: Path, ranker: str, encoder: str | None, id_table: str | None, to: str | None, as_json: bool
) -> None:
    """Publish a ranker; its bundles are copied below `to` first, if given."""
    with stage(Console(stderr=as_json), f"Publishing {ranker}") as advance:
        advance.note("bundles")
        uri = _where(ranker, to)
        encoder_uri = _where(encoder, to) if encoder else encoder
        advance.note("ID rows")

        async def run(redis: Server) -> Generation:
            return await publish_ranker(
                redis, uri, encoder_uri=encoder_uri, id_table=id_table, progress=advance
            )

        generation = with_redis(var, run)
    if as_json:
        document = json.loads(generation.to_bytes())
        print(json.dumps({"generation": generation.id, **document}))
        return
    print(f"generation {generation.id}: space {generation.space.id}, ID table {generation.id_table.name}")
    print(f"now: repcenter generations activate {generation.id}")


def _where(uri: str, to: str | None) -> str:
    """Where others find a bundle: its copy below `to`, else as given, a local path from the root."""
    if to is not None:
        return copy_bundle(open_bundle(uri), to if "://" in to else str(Path(to).resolve()))
    return uri if "://" in uri else str(Path(uri).resolve())


def export_published(var: Path, path: Path) -> None:
    """The file is replaced in one step."""
    published = with_redis(var, read_published)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(published.to_bytes())
    os.replace(part, path)
    print(
        f"{len(published.generations):,} generations, {len(published.scenes):,} scenes and "
        f"{len(published.pins):,} pins in {path}"
    )


def import_published(var: Path, path: Path, by: str | None, as_json: bool) -> None:
    """Conflict where something of the file could not be restored; the rest is."""
    try:
        published = Published.from_bytes(path.read_bytes())
    except OSError as error:
        raise InvalidInput("file of generations", str(path), f"cannot be read: {error.strerror}") from error
    with stage(Console(stderr=as_json), f"Restoring from {path}") as advance:

        def progress(generation: str) -> Progress:
            advance.note(generation)
            return advance

        async def run(redis: Server) -> Restored:
            return await restore(redis, published, by=by or this_user(), progress=progress)

        report = with_redis(var, run)
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(
            f"{len(report.generations):,} of {len(published.generations):,} generations, "
            f"{len(report.scenes):,} of {len(published.scenes):,} scenes, "
            f"{len(report.pins):,} of {len(published.pins):,} pins are there"
        )
        for what, reason in report.failures.items():
            print(f"{what}: {reason}")
    if report.failures:
        raise Conflict(f"{len(report.failures)} parts of {path} are not there")
