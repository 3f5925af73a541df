"""`repcenter table` as a user runs it: processes over an embedded server of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.codec import ID_INT8
from param_server.id_rows import write_id_rows
from param_server.offline import OfflineTable
from param_server.record_file import RecordFiles, RecordFileWriter
from tests.param_server.samples import make_id_rows

ROOT = Path(__file__).parent.parent.parent
COUNT = 300


def run(var: Path, *words: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "table", *words, "--var", str(var)],
        cwd=ROOT,
        env=environment | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(var: Path, *words: str, status: int = 0) -> dict[str, Any]:
    done = run(var, *words, "--json")
    assert done.returncode == status, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def write_vectors(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(COUNT, 8)).astype(np.float32)
    table = {
        "item_id": [f"i{n}" for n in range(COUNT)],
        "text": pa.array(list(values), pa.list_(pa.float32())),
        "maker": ["A", "B", None] * (COUNT // 3),
        "year": [1990.0] * COUNT,
    }
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture
def var(tmp_path: Path) -> Path:
    return tmp_path / "var"


def test_vectors_of_somebody_else_from_file_to_file(var: Path, tmp_path: Path) -> None:
    vectors = write_vectors(tmp_path / "v.parquet")
    loaded = answer(var, "load", "--vectors", str(vectors), "--name", "clip", "-a", "maker:categorical:2")
    assert (loaded["committed"], loaded["sequence"], loaded["refused"]) == (COUNT, 1, 0)
    again = answer(
        *(var, "load", "--vectors", str(write_vectors(tmp_path / "w.parquet", 1))),
        *("--name", "clip", "-a", "maker:categorical:2"),
    )
    assert (again["committed"], again["sequence"], again["name"]) == (COUNT, 2, loaded["name"])
    state = answer(var, "inspect", "--scan")
    [space] = state["spaces"]
    assert (space["id"], space["live"], space["high_water"]) == (loaded["name"], COUNT, 2)
    assert space["contents"]["live"] == COUNT
    assert space["attributes"][0] == {"name": "maker", "kind": "categorical", "slots": 2}
    assert state["servers"][0]["policy"] == "noeviction"
    item = answer(var, "get", "i1")["rows"][0]
    assert (item["state"], item["sequence"], item["attributes"]["year"]) == ("live", 2, 1990.0)
    assert len(item["modalities"]["text"]["first"]) == 8
    exported = tmp_path / "out.parquet"
    assert answer(var, "export", str(exported))["records"] == COUNT
    assert answer(var, "verify", str(exported))["agrees"]
    assert answer(var, "verify", str(var / "offline" / loaded["name"]))["agrees"]
    ids, _ = OfflineTable(str(var / "offline")).read(RecordFiles.open(exported).space)
    assert len(ids) == COUNT
    other = tmp_path / "other"
    assert answer(other, "load", str(exported))["committed"] == COUNT
    assert answer(other, "verify", str(exported), "--sample", "50")["agrees"]


def test_differences_are_told_by_the_exit_status(var: Path, tmp_path: Path) -> None:
    answer(
        var, "load", "--vectors", str(write_vectors(tmp_path / "v.parquet")), "--name", "x", "--offline", ""
    )
    answer(var, "export", str(tmp_path / "e.parquet"))
    files = RecordFiles.open(tmp_path / "e.parquet")
    window = next(files.batches(0, 4_096)).window
    records = window.records.copy()
    records["codes"][3, 0] ^= 1
    with RecordFileWriter(tmp_path / "f.parquet", files.space) as writer:
        writer.write([*window.item_ids[:-1], "other"], records)
    report = answer(var, "verify", str(tmp_path / "f.parquet"), status=1)
    assert (report["missing"], report["different"], report["extra"]) == (1, 1, 1)
    told = run(var, "verify", str(tmp_path / "f.parquet"))
    assert told.returncode == 1
    assert "'other'" in told.stdout
    assert "Traceback" not in told.stderr


def test_refused_rows_are_told_and_the_others_are_loaded(var: Path, tmp_path: Path) -> None:
    values = pa.array([[1.0, 0.0], [float("nan"), 1.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": ["good", "bad"], "text": values}), tmp_path / "v.parquet")
    told = run(var, "load", "--vectors", str(tmp_path / "v.parquet"), "--name", "x")
    assert told.returncode == 1
    assert "bad: text: holds a value that is null or not finite" in told.stdout
    assert answer(var, "inspect")["spaces"][0]["live"] == 1


def test_id_tables_go_in_and_are_seen(var: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_id_rows(path, ["a", "b"], make_id_rows(2, dim=12, codec=ID_INT8))
    assert answer(var, "load", str(path), "--id-table", "items v1")["committed"] == 2
    [table] = answer(var, "inspect")["id_tables"]
    assert (table["name"], table["rows"], table["sealed"]) == ("items v1", 2, True)
    assert answer(var, "get", "a")["rows"][0]["table"] == "ID table items v1"
    assert answer(var, "verify", str(path), "--id-table", "items v1")["agrees"]
    assert answer(var, "export", str(tmp_path / "o.parquet"), "--id-table", "items v1")["records"] == 2
    for words in (["inspect"], ["get", "a"]):
        assert "items v1" in run(var, *words).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["load"], "either"),
        (["load", "--vectors", "v"], "--name"),
        (["load", "none.parquet"], "no Parquet"),
        (["load", "--vectors", "v", "--name", "x", "--codec", "int4"], "int4"),
        (["load", "--vectors", "v", "--name", "x", "-a", "maker"], "'maker'"),
        (["export", "x.parquet"], "no space"),
        (["get", "x"], "no row of item"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(var: Path, words: list[str], message: str) -> None:
    told = run(var, *words)
    assert told.returncode != 0
    assert message in told.stderr
    assert "Traceback" not in told.stderr


def test_memory_is_planned_for_every_server(tmp_path: Path) -> None:
    words = (
        "--items",
        "16e6",
        "--attributes",
        "4",
        "--id-dim",
        "16",
        "--users",
        "5e6",
        "--behaviours",
        "200",
    )
    done = plan(*words, "--cached", "1e6", "--json")
    document = json.loads(done.stdout)
    assert [p["server"] for p in document["plans"]] == [
        *("redis (jemalloc)", "valkey (jemalloc)", "valkey (libc)")
    ]
    assert all(30 < p["total"] / 2**30 < 40 for p in document["plans"])
    assert document["cache"]["parts"][0]["rows"] == 1_000_000
    assert (document["checks"], done.returncode) == ([], 0)
    assert "behaviours" in plan(*words).stdout


def test_a_plan_is_checked_against_what_is_installed() -> None:
    done = plan("--items", "3000", "--modalities", "2", "--verify", "--json")
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert checks
    assert all(c["holds"] and c["sample"]["items"] == 3_000 for c in checks)


@pytest.mark.parametrize("words", [["--items", "many"], ["--items", "1.5"], ["--items", "3", "--on-server"]])
def test_a_plan_of_nonsense_is_refused(words: list[str]) -> None:
    done = plan(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("repcenter: invalid:")


def plan(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "plan-memory", *words],
        cwd=ROOT,
        env=environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_what_is_copied_is_whole_and_what_users_named_is_no_markup(var: Path, tmp_path: Path) -> None:
    """In a terminal of 80 columns."""
    odd = "[/red] [bold]x"
    values = np.ones((1, 8), np.float32).tolist()
    pq.write_table(
        pa.table({"item_id": [odd], "text": pa.array(values, pa.list_(pa.float32()))}), tmp_path / "v"
    )
    loaded = answer(var, "load", "--vectors", str(tmp_path / "v"), "--name", "clip")
    assert odd in run(var, "get", odd).stdout
    assert loaded["name"] in run(var, "inspect", columns=80).stdout
    exported = answer(var, "export", str(tmp_path / "out.parquet"))
    assert exported["records"] == 1
    with RecordFileWriter(tmp_path / "none.parquet", RecordFiles.open(tmp_path / "out.parquet").space):
        pass
    differs = run(var, "verify", str(tmp_path / "none.parquet"))
    assert differs.returncode == 1
    assert odd in differs.stdout
