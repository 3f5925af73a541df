"""Which impressions get a label, which are left out, and that training reads the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput, NotFound, UnknownVersion
from param_server.score_files import SCHEMA, ScoreFiles
from tests.training.data.tables import items_columns
from training.data.dataset import load_dataset
from training.data.event_table import read_events
from training.data.holdout import new_items
from training.data.samples import build_samples
from training.data.score_join import JoinOptions, join_scores

DAY_MS = 1_700_000_000_000


def request(
    name: str, at_s: float, candidates: list[str], who: str | None = "u", **more: Any
) -> dict[str, Any]:
    count = len(candidates)
    return {
        "request_id": name,
        "scene": "default",
        "generation": "g1",
        "user_id": who,
        "timestamp_ms": DAY_MS + round(at_s * 1000),
        "candidates": candidates,
        "sequences": list(range(7, 7 + count)),
        "statuses": [1] * count,
        "scores": [1.0 / (n + 2) for n in range(count)],
        "behaviours": [],
        "behaviour_sequences": [],
        "user": "",
        "context": "",
        "query": "",
        **more,
    }


def event(item: str, at_s: float, user: str = "u", **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "timestamp_ms": DAY_MS + round(at_s * 1000), **more}


LATER = event("elsewhere", 10_000.0, "nobody")  # time goes on: windows are closed


def joined(
    tmp_path: Path, requests: list[dict[str, Any]], events: list[dict[str, Any]], **options: Any
) -> tuple[pa.Table, dict[str, int]]:
    tmp_path.mkdir(exist_ok=True)
    files = ScoreFiles(str(tmp_path / "log"))
    for n, row in enumerate(requests):  # in any order, a file each
        files.write(f"2023-11-14/scores-{n}.parquet", pa.Table.from_pylist([row], SCHEMA))
    lines = tmp_path / "events.ndjson"
    lines.write_text("\n".join(json.dumps(e) for e in [*events, LATER]))
    counts = join_scores(files, read_events(lines), tmp_path / "data", JoinOptions(60.0, **options))
    return pq.read_table(tmp_path / "data" / "interactions.parquet"), counts


def labels(table: pa.Table) -> list[tuple[str, str, int]]:
    return [(r["request_id"], r["item_id"], r["label"]) for r in table.to_pylist()]


def test_an_event_counts_for_the_newest_request_that_showed_its_item(tmp_path: Path) -> None:
    requests = [
        request("r2", 50, ["b", "a"]),
        request("r1", 0, ["a", "b", "a"]),
        request("r3", 80, ["a"], who="other"),
    ]
    events = [
        event("a", 49.999),  # r1: before r2
        event("b", 110),  # r2: at the end of its window
        event("a", 110.001),  # behind it
        event("c", 60),  # never shown
        event("b", -1),  # before
    ]
    table, counts = joined(tmp_path, requests, events)
    assert labels(table) == [("r1", "a", 1), ("r1", "b", 0), ("r2", "b", 1), ("r2", "a", 0), ("r3", "a", 0)]
    assert counts["events_without_impression"] == 4
    assert (counts["rows"], counts["positives"], counts["requests"]) == (5, 2, 3)
    first = table.to_pylist()[0]
    assert (first["served_generation"], first["served_scene"], first["served_sequence"]) == (
        "g1",
        "default",
        7,
    )
    assert first["served_score"] == 0.5
    assert first["timestamp"].timestamp() * 1000 == DAY_MS


def test_an_event_that_names_its_request_counts_for_that_one(tmp_path: Path) -> None:
    requests = [request("r1", 0, ["a"]), request("r2", 10, ["a"])]
    table, _ = joined(tmp_path, requests, [event("a", 20, request_id="r1"), event("a", 20, request_id="r9")])
    assert labels(table) == [("r1", "a", 1), ("r2", "a", 0)]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    requests = [
        request("r1", 0, ["a", "gone", "b"], statuses=[1, 3, 2], scores=[0.2, None, 0.1]),
        request("r1", 5, ["c"]),
        request("r2", 6, ["a"], who=None),
        request("r3", 9_990, ["a"]),
    ]
    table, counts = joined(tmp_path, requests, [])
    assert labels(table) == [("r1", "a", 0), ("r1", "b", 0)]
    assert counts["impressions_without_score"] == 1
    assert counts["requests_repeated"] == 1
    assert counts["requests_without_user"] == 1
    assert counts["impressions_still_open"] == 1
    assert counts["requests_logged"] == 4


def test_what_was_shown_may_be_told(tmp_path: Path) -> None:
    requests = [request("r1", 0, ["a", "b", "c", "d"], scores=[0.1, 0.4, 0.3, 0.2])]
    table, _ = joined(tmp_path / "top", requests, [event("c", 1)], top=2)
    assert labels(table) == [("r1", "b", 0), ("r1", "c", 1)]
    views = [event("a", 1, kind="view"), event("b", 1, kind="view"), event("b", 2, kind="click")]
    table, counts = joined(
        tmp_path / "seen", requests, [*views, event("d", 3, kind="buy")], shown_kind="view"
    )
    assert labels(table) == [("r1", "a", 0), ("r1", "b", 1), ("r1", "d", 1)]
    assert counts["impressions_not_seen"] == 1
    table, _ = joined(tmp_path / "kinds", requests, [*views, event("d", 3, kind="buy")], kinds=("buy",))
    assert [row[2] for row in labels(table)] == [0, 0, 0, 1]


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="score log"):
        joined(tmp_path / "none", [], [])
    joined(tmp_path, [request("r1", 0, ["a"])], [])
    with pytest.raises(InvalidInput, match=r"has an interactions\.parquet already"):
        joined(tmp_path, [request("r1", 0, ["a"])], [])
    with pytest.raises(InvalidInput, match="leaves no impression"):
        joined(tmp_path / "nobody", [request("r1", 0, ["a"], who=None)], [])
    lines = tmp_path / "bad.ndjson"
    for text, where in (
        ("[]", "line 1"),
        ("{", "line 1"),
        ('{"user_id": "", "item_id": "a", "timestamp_ms": 1}', "line 1: user_id"),
        ('{"user_id": "u", "item_id": "a"}', "line 1: timestamp_ms"),
        ('{"user_id": "u", "item_id": "a", "timestamp_ms": 1, "kind": 4}', "line 1: kind"),
    ):
        lines.write_text(text)
        with pytest.raises(InvalidInput, match=where):
            read_events(lines)
    bad = tmp_path / "bad"
    ScoreFiles(str(bad)).write("d/scores-1.parquet", pa.table({"a": [1]}))
    with pytest.raises(UnknownVersion, match="scores-1"):
        join_scores(ScoreFiles(str(bad)), read_events(_parquet(tmp_path)), tmp_path / "x", JoinOptions())


def _parquet(tmp_path: Path) -> Path:
    path = tmp_path / "events.parquet"
    at = pa.array([DAY_MS + 1_500], pa.timestamp("ms"))
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": at}), path)
    assert read_events(path).times.tolist() == [DAY_MS + 1_500]
    return path


def test_training_reads_it(tmp_path: Path) -> None:
    """Labels, requests, context, users and queries; nothing that serving noted beside is read as context."""
    rng = np.random.default_rng(0)
    requests, events = [], []
    for n in range(60):
        device = ["tv", "phone"][n % 3 == 0]
        told = {
            "context": json.dumps({"device": device, "hour": n % 24, "label": 1}),
            "user": json.dumps({"age": 20 + n % 5, "tastes": ["x", "y"][: 1 + n % 2]}),
            "query": json.dumps({"text": [float(n), 1.0]}) if n % 2 else "",
        }
        shown = [f"i{k}" for k in rng.permutation(6)[:4]]
        requests.append(request(f"r{n:02}", n * 100, shown, who=f"u{n % 5}", **told))
        events += [event(i, n * 100 + 5, f"u{n % 5}") for i in shown if rng.random() < 0.5]
    _, counts = joined(tmp_path, requests, events)
    pq.write_table(pa.table(items_columns()), tmp_path / "data" / "items.parquet")
    data = load_dataset(tmp_path / "data")
    log = data.interactions
    assert len(log) == counts["rows"] == 240
    assert int(log.labels.sum()) == counts["positives"] == len(events)
    assert len(np.unique(log.requests)) == 60
    assert log.context is not None
    assert {f.name for f in log.context.fields} == {"device", "hour"}
    assert data.users is not None
    assert {f.name for f in data.users.fields} == {"age", "tastes"}
    assert data.queries is not None
    assert (counts["queries"], len(data.queries)) == (30, 30)
    assert counts["context_columns_left_out"] == 1
    samples = build_samples(data, new_items(data), 8)
    assert len(samples) > 0
    assert samples.labels.sum() > 0
