"""`repcenter train` as people start it: two processes of a real torchrun, then one more day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.bundle import open_bundle
from contracts.codec import encode_records
from contracts.encoder_spec import encoder_spec_from_json
from contracts.errors import InvalidInput
from contracts.ranker_spec import ranker_spec_from_json
from contracts.window import Window
from param_server.id_rows import read_id_rows
from param_server.offline import OfflineTable
from tests.encoder_bundle import make_encoder_bundle
from training.loop import TrainingConfig

ROOT = Path(__file__).parents[2]
ITEMS, ROWS = 40, 900


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A log in which even items are liked, an encoder bundle and its offline table, as arguments."""
    root = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    ids = [f"item {i}" for i in range(ITEMS)]
    (root / "data").mkdir()
    pq.write_table(pa.table({"item_id": ids, "title": ids}), root / "data" / "items.parquet")
    shown = rng.integers(0, ITEMS, ROWS)
    log = {
        "user_id": [f"user {u}" for u in rng.integers(0, 30, ROWS)],
        "item_id": [ids[i] for i in shown],
        "timestamp": np.arange(ROWS) + 1_000_000,
        "label": (shown % 2 == 0).astype(np.int8),
    }
    pq.write_table(pa.table(log), root / "data" / "interactions.parquet")
    bundle = make_encoder_bundle(root / "encoder")
    space = encoder_spec_from_json(dict(bundle.manifest.content)).space(bundle.digest)
    vectors = [rng.normal(size=(ITEMS, d)).astype(np.float32) for d in space.dims]
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    slots = np.zeros((ITEMS, space.attribute_slots), np.uint32)
    records = encode_records(vectors, np.ones(ITEMS, np.uint64), slots)
    OfflineTable(str(root / "offline")).append(Window(space, ids, records, 1), "all")
    data, encoder, offline = (str(root / name) for name in ("data", "encoder", "offline"))
    ranker = root / "ranker.json"
    ranker.write_text('{"id_interest": "din", "content": [{"kind": "target_vector"}]}')
    kept = ["--negative-sampling-rate", "0.5", "--new-share", "0.1"]
    places = [data, "--encoder", encoder, "--offline", offline]
    return [*places, "--ranker", str(ranker), "--threads", "1", *kept]


def train(*arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, *(torchrun if ranks > 1 else []), "-m", "cli.main", "train", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_torchrun_trains_seals_and_a_second_day_is_an_overlay(inputs: list[str], tmp_path: Path) -> None:
    first = tmp_path / "first"
    done = train(*inputs, "--out", str(first), "--batch-rows", "60", ranks=2)
    assert done.returncode == 0, done.stderr
    report = json.loads((first / "report.json").read_text())
    assert report["training"]["ranks"] == 2
    assert report["test"]["all"]["auc"] > 0.6
    assert (first / "ranker.safetensors").exists()
    base = open_bundle(str(first / "bundle"), report["bundle"])

    second = tmp_path / "second"
    day = ["--base", str(base.path), "--base-table", "items-1", "--since", str(1_000_000 + 700), "--overlay"]
    done = train(*inputs, "--out", str(second), *day)
    assert done.returncode == 0, done.stderr
    spec = ranker_spec_from_json(dict(open_bundle(str(second / "bundle")).manifest.content))
    assert spec.id_base == "items-1"
    assert spec.model["content"][0]["kind"] == "target_vector"
    changed, _ = read_id_rows(second / "bundle" / spec.id_rows, spec.id_codec, spec.schema.id_dim)
    assert 0 < len(changed) == spec.id_row_count

    again = train(*inputs, "--out", str(second))
    assert again.returncode == 1
    assert "holds a finished bundle already" in again.stderr


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from cli.train import TrainOptions, run_training

    def run(**changes: object) -> None:
        plain: dict[str, object] = {
            "encoder": "e",
            "offline": "o",
            "ranker": "din",
            "config": TrainingConfig(),
        }
        run_training(TrainOptions(data=tmp_path, out=tmp_path / "out", **(plain | changes)))  # type: ignore[arg-type]

    with pytest.raises(InvalidInput, match="ranker: must be among"):
        run(ranker="dien")
    with pytest.raises(InvalidInput, match="--base"):
        run(base="b")
    with pytest.raises(InvalidInput, match="--overlay"):
        run(overlay=True)
