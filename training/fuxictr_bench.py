"""Rows per second of FuxiCTR's DIN over rows that training.train_bench wrote.

A script for FuxiCTR's own virtual environment: it imports nothing of ours. `DIRECTORY` holds rows.npz with
item_index (R,), click_history (R, T), user_index (R,), label (R,) and user_history (U, T), all int32, item 0
padding. The last line printed is one JSON object.

The model is the DIN that the package ships (model_zoo.LongCTR.DIN) with the training loop of its base class
(BaseModel.train_epoch). Loaders, all the package's own but the last:

* npz: NpzDataLoader, the history in every row. Its batches are put into the tuple that the model reads.
* longctr: LongCTRDataLoader, a history per user, cut and padded per row.
* parquet: ParquetDataLoader (Ray Data), the history in every row.
* memory: tensors cut into batches beforehand, so the model's own speed: no loader at all.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.int32]
ModelBatch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]
ITEM, HISTORY, USER, LENGTH, LABEL = "item_index", "click_history", "user_index", "seq_len", "label"
EMBEDDED = "item_id"  # the one feature of an item that is embedded
_META = {name: {"type": "meta", "source": ""} for name in (USER, ITEM, LENGTH)}


def main() -> None:
    """Train one epoch after a short warm-up and print rows_per_s."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--loader", choices=("npz", "longctr", "parquet", "memory"), default="npz")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, required=True, help="Rows of the embedding table, 0 included.")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--attention", type=int, nargs="+", default=[80, 40])
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 80])
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with np.load(options.directory / "rows.npz") as stored:
        rows = {name: stored[name] for name in stored.files}
    batches = _loader(options, rows)
    model = _model(options)
    model._eval_steps, model._max_gradient_norm = 1 << 60, 10.0  # no validation inside the epoch
    model._stop_training, model._total_steps, model._batch_index = False, 0, 0
    model.train()
    for batch, _ in zip(batches, range(3), strict=False):
        model.train_step(batch)
    began = time.perf_counter()
    model.train_epoch(batches)
    seconds = time.perf_counter() - began
    count = len(rows[LABEL])
    print(
        json.dumps(
            {
                "rows_per_s": count / seconds,
                "rows": count,
                "fuxictr": version("fuxictr"),
                "torch": torch.__version__,
            }
        )
    )


def _model(options: argparse.Namespace) -> Any:
    return import_module("model_zoo.LongCTR.DIN.DIN").DIN(
        _feature_map(options, _META | {EMBEDDED: _item(options.items)}),
        embedding_dim=options.dim,
        dnn_hidden_units=options.hidden,
        attention_hidden_units=options.attention,
        attention_hidden_activations="ReLU",  # its default, Dice, costs more
        learning_rate=options.learning_rate,
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=str(options.directory),
        verbose=0,
    )


def _loader(options: argparse.Namespace, rows: dict[str, Array]) -> Iterable[ModelBatch]:
    where: Path = options.directory
    shared = {"batch_size": options.batch, "shuffle": True, "num_workers": options.workers}
    length = rows[HISTORY].shape[1]
    in_every_row = _feature_map(
        options, {ITEM: _item(options.items), HISTORY: _item(options.items) | _sequence(length)}
    )
    if options.loader == "memory":
        return _in_memory(rows, options.batch)
    if options.loader == "npz":
        loader = import_module("fuxictr.pytorch.dataloaders.npz_dataloader").NpzDataLoader
        return ModelBatches(loader(in_every_row, str(where / "rows.npz"), **shared))
    if options.loader == "parquet":
        return ModelBatches(_parquet(in_every_row, where, rows, shared))
    _write_long(where, rows, options.items)
    long: Iterable[ModelBatch] = import_module("model_zoo.LongCTR.longctr_dataloader").LongCTRDataLoader(
        _feature_map(options, _META | {EMBEDDED: _item(options.items)}),
        str(where / "long_rows.parquet"),
        user_info=str(where / "users.parquet"),
        item_info=str(where / "items.parquet"),
        max_len=length,
        **shared,
    )
    return long


class ModelBatches:
    """A loader's {column: tensor} batches as the model's (labels, items with the target last, mask)."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[ModelBatch]:
        for batch in self.loader:
            yield _model_batch(batch[ITEM], batch[HISTORY], batch[LABEL])

    def __len__(self) -> int:
        return len(self.loader)


def _model_batch(items: torch.Tensor, history: torch.Tensor, labels: torch.Tensor) -> ModelBatch:
    sequence = torch.cat([history, items.unsqueeze(1)], dim=1)
    return {LABEL: labels}, {EMBEDDED: sequence.flatten()}, (history > 0).float()


def _in_memory(rows: dict[str, Array], size: int) -> list[ModelBatch]:
    order = np.random.default_rng(0).permutation(len(rows[LABEL]))
    chunks = [order[at : at + size] for at in range(0, len(order), size)]
    columns = (ITEM, HISTORY, LABEL)
    return [_model_batch(*(torch.from_numpy(rows[name][chunk]) for name in columns)) for chunk in chunks]


def _parquet(feature_map: Any, where: Path, rows: dict[str, Array], shared: dict[str, Any]) -> Any:
    import_module("ray").init(
        num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    columns = {ITEM: rows[ITEM], HISTORY: list(rows[HISTORY]), LABEL: rows[LABEL]}
    _write(columns, where / "flat_rows.parquet")
    loader = import_module("fuxictr.pytorch.dataloaders.parquet_dataloader").ParquetDataLoader
    return loader(feature_map, str(where / "flat_rows.parquet"), **shared)


def _write_long(where: Path, rows: dict[str, Array], items: int) -> None:
    length = np.full(len(rows[LABEL]), rows[HISTORY].shape[1], dtype=np.int32)
    data = {USER: rows[USER], ITEM: rows[ITEM], LENGTH: length, LABEL: rows[LABEL]}
    _write(data, where / "long_rows.parquet")
    _write({"full_item_seq": list(rows["user_history"])}, where / "users.parquet")
    ids = np.arange(items, dtype=np.int32)
    _write({ITEM: ids, EMBEDDED: ids}, where / "items.parquet")


def _write(columns: dict[str, Any], path: Path) -> None:
    import_module("pandas").DataFrame(columns).to_parquet(path)


def _feature_map(options: argparse.Namespace, features: Mapping[str, Mapping[str, Any]]) -> Any:
    document = {
        "dataset_id": "rows",
        "labels": [LABEL],
        "features": [{name: spec} for name, spec in features.items()],
    }
    path = options.directory / "feature_map.json"
    path.write_text(json.dumps(document))
    out = import_module("fuxictr.features").FeatureMap("rows", str(options.directory))
    out.load(str(path), {"embedding_dim": options.dim})
    return out


def _item(rows: int) -> dict[str, Any]:
    return {"type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": rows}


def _sequence(length: int) -> dict[str, Any]:
    return {"type": "sequence", "max_len": length}


if __name__ == "__main__":
    main()
