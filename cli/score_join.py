"""`repcenter data join`: the score log and events -> a data directory's interactions.parquet."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.progress import stage
from param_server.score_files import ScoreFiles
from training.data.event_table import read_events
from training.data.score_join import JoinOptions, join_scores


def join(log: str, events: Path, directory: Path, options: JoinOptions, replace: bool, as_json: bool) -> None:
    """Print what was joined and what was left out, by reason."""
    console = Console(stderr=True)
    with stage(console, f"Reading {events}") as advance:
        read = read_events(events, advance)
    with stage(console, f"Joining {log} with {len(read):,} events") as advance:
        counts = join_scores(ScoreFiles(log), read, directory, options, replace=replace, progress=advance)
    if as_json:
        print(json.dumps(counts))
        return
    table = Table("what", "count", title=str(directory))
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    Console().print(table)
