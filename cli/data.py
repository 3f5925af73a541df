"""`repcenter data`: check a data directory, draw the demo's world."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.progress import stage


def check_data(data: Path) -> None:
    """Print what a data directory holds; raises InvalidInput that names file, column and row."""
    import numpy as np

    from training.data.dataset import load_dataset
    from training.data.holdout import new_items
    from training.data.interactions import SPLITS

    console = Console()
    with stage(console, f"Reading {data}") as advance:
        dataset = load_dataset(data, progress=advance)
    log, catalogue = dataset.interactions, dataset.catalogue
    table = Table("what", "value")
    table.add_row("items", f"{len(catalogue):,}")
    table.add_row("text fields", ", ".join(catalogue.text_fields))
    table.add_row(
        "attributes",
        ", ".join(f"{f.name} ({f.kind}, {f.slots} slots)" for f in catalogue.attribute_fields),
    )
    for what, columns in (("user columns", dataset.users), ("context columns", log.context)):
        names = [] if columns is None else [f"{f.name} ({f.kind})" for f in columns.fields]
        table.add_row(what, ", ".join(names) or "none")
    table.add_row("queries", "none" if dataset.queries is None else f"{len(dataset.queries):,}")
    table.add_row("interactions", f"{len(log.items):,}, {log.labels.mean():.1%} positive")
    table.add_row("users", f"{len(log.user_ids):,}")
    table.add_row("users without a like", f"{dataset.report['users_without_positives']:,}")
    for code, name in enumerate(SPLITS):
        table.add_row(f"{name} rows", f"{int(np.count_nonzero(log.splits == code)):,}")
    table.add_row("new items (held out)", f"{int(new_items(dataset).sum()):,}")
    pairs = dataset.interest_pairs
    table.add_row("interest pairs", "derived from the log" if pairs is None else f"{len(pairs.items):,}")
    console.print(table)


def draw_data(directory: Path, seed: int) -> None:
    from training.data.world import draw_world

    console = Console()
    with stage(console, f"Drawing a world into {directory}") as advance:
        draw_world(directory, seed=seed, progress=advance)
