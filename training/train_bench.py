"""`repcenter bench train`: training rows per second, beside FuxiCTR's DIN on the same rows, in turn."""

from __future__ import annotations

import json as json_module
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from contracts.codec import encode_records
from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema
from contracts.space import Modality, Space
from training.data.interactions import TRAIN, VAL
from training.data.samples import Samples
from training.item_table import ItemTable, item_table
from training.loop import TrainingConfig, train_ranker
from training.recipes.ranker import ID_DIM, new_ranker
from training.step import Precision

MODELS = ("din", "ciubm", "dmae")
BATCHES = (768, 4_096)
PRECISIONS = get_args(Precision)
LOADERS = ("npz", "longctr", "parquet", "memory")  # of training.fuxictr_bench; memory is no loader
_ITEMS, _USERS, _LENGTH, _DIM = 20_000, 2_000, 64, 128
_LEARNING_RATE = 3e-3
_VALIDATION = 8  # samples; validating is not part of the rate
_SEARCH_ROWS = 12_288
_SCRIPT = Path(__file__).with_name("fuxictr_bench.py")
_SECONDS_A_RUN, _SECONDS_TO_INSTALL = 300, 1_200


class DrawnRows(NamedTuple):
    """histories: (U, T) int32, what each user liked; samples: a candidate liked, `width - 1` others."""

    samples: Samples
    items: ItemTable
    space: Space
    schema: FeatureSchema
    histories: np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """FuxiCTR in its virtual environment; where it could not be installed, `python` is None and `why` set."""

    python: Path | None
    why: str


def run(
    *,
    json: bool = False,
    rows: int = 49_152,
    width: int = 3,
    threads: int = 1,
    repeats: int = 3,
    fuxictr: Path | None = Path("var/bench/fuxictr"),
    models: Sequence[str] = MODELS,
    seed: int = 0,
) -> dict[str, Any]:
    """Time whole epochs of all in turn, `repeats` times; print and return medians, best and worst.

    rows: candidate rows of an epoch; width: candidates of a request, which share a history of 64 (FuxiCTR
    reads them as rows of their own); fuxictr: its virtual environment, made where it is missing, None =
    leave it out. Every contender first tries its settings on fewer rows: ours the batch sizes and precisions
    (`<model>_fp32_rows_per_s` is the best of fp32 alone, which is all that FuxiCTR has), FuxiCTR the batch
    sizes and its loaders. `fuxictr_din_rows_per_s`: the best of its settings; `..._same_batch`: the
    best loader at our DIN's batch; `..._model_only`: without any loader; `din_over_fuxictr_din`: the
    median of the rounds' ratios. All null without FuxiCTR, and
    `fuxictr` says why. json: leave progress lines out; the last line is the result as JSON either way.
    """
    for name, value in (("rows", rows), ("width", width), ("threads", threads), ("repeats", repeats)):
        if value < 1:
            raise InvalidInput(name, value, "must be at least 1")
    rival = Rival(python=None, why="left out") if fuxictr is None else install(fuxictr)
    drawn = draw(rows, width, seed)
    small = draw(min(rows, _SEARCH_ROWS), width, seed)
    settings: dict[str, dict[str, Any]] = {}
    for name in models:
        tried = [
            (train(name, small, batch, threads, seed, precision), batch, precision)
            for batch in BATCHES
            for precision in PRECISIONS
        ]
        for label, chosen in ((name, tried), (f"{name}_fp32", [t for t in tried if t[2] == "fp32"])):
            _, batch, precision = max(chosen)
            settings[label] = {"batch_rows": batch, "precision": precision}
    with tempfile.TemporaryDirectory() as scratch:
        where = {"search": Path(scratch) / "search", "timed": Path(scratch) / "timed"}
        write_rows(small, where["search"])
        write_rows(drawn, where["timed"])
        if rival.python is not None:
            same = settings.get("din", {"batch_rows": BATCHES[0]})["batch_rows"]
            settings = _rival_settings(rival.python, where["search"], threads, same) | settings
        rates: dict[str, list[float]] = {name: [] for name in settings}
        versions: dict[str, str] = {}
        for _ in range(repeats):
            for name, setting in settings.items():
                if "loader" in setting:
                    assert rival.python is not None
                    line = _run_rival(rival.python, where["timed"], threads, **setting)
                    versions = {"fuxictr": line["fuxictr"], "fuxictr_torch": line["torch"]}
                    rate = float(line["rows_per_s"])
                else:
                    model = name.removesuffix("_fp32")
                    rate = train(model, drawn, setting["batch_rows"], threads, seed, setting["precision"])
                rates[name].append(rate)
                if not json:
                    print(f"{name:24} {rate:10,.0f} rows/s  {setting}", flush=True)
    result = _result(rates, settings) | {
        "fuxictr": rival.why or "installed",
        "threads": threads,
        "rows": int(drawn.samples.candidate_mask[drawn.samples.splits == TRAIN].sum()),
        "width": width,
        "repeats": repeats,
        "dims": _dims(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__} | versions,
    }
    print(json_module.dumps(result), flush=True)
    return result


def draw(rows: int, width: int, seed: int) -> DrawnRows:
    """`rows` candidate rows for training over 20,000 items, popular ones more often, three vectors of 128."""
    rng = np.random.default_rng(seed)
    space = Space("0" * 64, tuple(Modality(name, _DIM) for name in ("text", "image", "fused")))
    schema = FeatureSchema(_LENGTH, ID_DIM, ())
    vectors = [rng.normal(size=(_ITEMS, _DIM)).astype(np.float32) for _ in space.modalities]
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]
    records = encode_records(units, np.ones(_ITEMS, np.uint64), np.zeros((_ITEMS, 0), np.uint32))
    everything = np.ones(_ITEMS, dtype=bool)
    items = item_table(records, everything, ~everything, schema)
    count = max(1, rows // width) + _VALIDATION
    popularity = 1.0 / np.arange(10, _ITEMS + 10)
    popularity /= popularity.sum()
    histories = 1 + rng.choice(_ITEMS, (_USERS, _LENGTH), p=popularity).astype(np.int32)
    candidates = 1 + rng.choice(_ITEMS, (count, width), p=popularity).astype(np.int32)
    users = rng.integers(0, _USERS, count)
    labels = np.zeros((count, width), dtype=np.float32)
    labels[np.arange(count), rng.integers(0, max(2, width), count) % width] = rng.random(count) < 0.7
    labels[-2:, 0] = (0.0, 1.0)  # both classes in either split
    labels[:2, 0] = (0.0, 1.0)
    splits = np.full(count, TRAIN, dtype=np.int8)
    splits[-_VALIDATION:] = VAL
    samples = Samples(
        candidates=candidates,
        labels=labels,
        candidate_mask=np.ones((count, width), dtype=bool),
        users=users.astype(np.int32),
        splits=splits,
        timestamps=np.arange(count, dtype=np.int64),
        requests=np.arange(count, dtype=np.int64),
        liked=histories.reshape(-1),
        starts=(users * _LENGTH).astype(np.int64),
        ends=((users + 1) * _LENGTH).astype(np.int64),
    )
    return DrawnRows(samples, items, space, schema, histories)


def write_rows(drawn: DrawnRows, directory: Path) -> Path:
    """The training rows, one per candidate, as training.fuxictr_bench reads them: rows.npz, all int32."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = drawn.samples.splits == TRAIN
    width = drawn.samples.candidates.shape[1]
    users = np.repeat(drawn.samples.users[chosen], width)
    path = directory / "rows.npz"
    np.savez(
        path,
        item_index=drawn.samples.candidates[chosen].reshape(-1),
        click_history=drawn.histories[users],
        user_index=users,
        user_history=drawn.histories,
        label=drawn.samples.labels[chosen].reshape(-1).astype(np.int32),
    )
    return path


def train(
    model: str,
    drawn: DrawnRows,
    batch_rows: int,
    threads: int,
    seed: int,
    precision: Precision = "fp32",
) -> float:
    """Rows per second of one epoch of the whole loop: batches, gathering, forward, backward, both Adams."""
    config = TrainingConfig(
        epochs=1,
        batch_rows=batch_rows,
        learning_rate=_LEARNING_RATE,
        seed=seed,
        threads=threads,
        precision=precision,
    )
    ranker = new_ranker(model, drawn.space, drawn.schema, seed)
    return float(train_ranker(ranker, drawn.samples, drawn.items, config).log["rows_per_s"])


def install(directory: Path) -> Rival:
    """FuxiCTR from the package index in a virtual environment of its own, with the torch release of ours."""
    python = directory / "bin" / "python"
    probe = [str(python), "-c", "import fuxictr, torch, model_zoo.LongCTR"]
    if python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return Rival(python=python.absolute(), why="")
    print(f"installing FuxiCTR into {directory}", file=sys.stderr, flush=True)
    release = torch.__version__.split("+")[0]
    try:
        venv.create(directory, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", f"torch=={release}", "fuxictr"]
        subprocess.run(command, capture_output=True, check=True, text=True, timeout=_SECONDS_TO_INSTALL)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or error).strip().splitlines()
        return Rival(python=None, why=f"installing FuxiCTR failed: {said[-1] if said else error.returncode}")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Rival(python=None, why=f"installing FuxiCTR failed: {error}")
    return Rival(python=python.absolute(), why="")


def _rival_settings(python: Path, where: Path, threads: int, same: int) -> dict[str, dict[str, Any]]:
    """Its fastest settings: of all, at our batch size, and without a loader."""
    tried: list[tuple[float, dict[str, Any]]] = []
    for loader in LOADERS:
        for batch in sorted({*BATCHES, same}):
            for workers in (0, 1) if loader in ("npz", "longctr") and threads > 1 else (0,):
                setting: dict[str, Any] = {"loader": loader, "batch": batch, "workers": workers}
                tried.append((_run_rival(python, where, threads, **setting)["rows_per_s"], setting))
    loaded = [(rate, s) for rate, s in tried if s["loader"] != "memory"]

    def best(of: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
        return max(of, key=lambda pair: pair[0])[1]

    return {
        "fuxictr_din": best(loaded),
        "fuxictr_din_same_batch": best([(r, s) for r, s in loaded if s["batch"] == same]),
        "fuxictr_din_model_only": best([(r, s) for r, s in tried if s["loader"] == "memory"]),
    }


def _run_rival(
    python: Path, where: Path, threads: int, *, loader: str, batch: int, workers: int
) -> dict[str, Any]:
    command = [str(python), str(_SCRIPT), str(where), "--loader", loader, "--workers", str(workers)]
    command += ["--batch", str(batch), "--threads", str(threads), "--items", str(_ITEMS + 1)]
    command += ["--dim", str(ID_DIM), "--learning-rate", str(_LEARNING_RATE)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": str(threads),
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS_A_RUN, env=environment, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise InvalidInput("fuxictr", said[-1] if said else done.returncode, f"could not run with {loader}")
    line: dict[str, Any] = json_module.loads(lines[-1])
    return line


def _result(
    rates: Mapping[str, Sequence[float]], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    wanted = (
        *MODELS,
        *(f"{name}_fp32" for name in MODELS),
        "fuxictr_din",
        "fuxictr_din_same_batch",
        "fuxictr_din_model_only",
    )
    medians = {name: statistics.median(rates[name]) if rates.get(name) else None for name in wanted}
    over = {
        name: [a / b for a, b in zip(rates.get(name, ()), rates.get("fuxictr_din", ()), strict=False)]
        for name in ("din", "din_fp32")
    }
    return {
        **{f"{name}_rows_per_s": None if m is None else round(m, 1) for name, m in medians.items()},
        **{
            f"{name}_over_fuxictr_din": round(statistics.median(rounds), 2) if rounds else None
            for name, rounds in over.items()
        },
        "spread": {name: [round(min(r), 1), round(max(r), 1)] for name, r in rates.items()},
        "settings": {name: dict(setting) for name, setting in settings.items()},
    }


def _dims() -> dict[str, Any]:
    return {
        "items": _ITEMS,
        "history": _LENGTH,
        "id": ID_DIM,
        "attention": [80, 40],
        "network": [200, 80],
        "content": _DIM,
        "optimiser": "adam",
    }
