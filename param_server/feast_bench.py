"""The other side of `repcenter bench table`: the same ids and bytes through Feast's Redis online store.

Runs in Feast's own environment and imports nothing of ours: `python feast_bench.py rows.parquet 127.0.0.1:1`
loads the rows and prints how many per second; then for each line of its input, a JSON list of a way and of
counts of ids, it reads so many rows each and prints [seconds by the clock, seconds of CPU] of every read.

Ways: "dict", the documented one, get_online_features(...).to_dict(); "response", without the last step: an
answer in protobuf messages; "async", get_online_features_async(...).to_dict() on an event loop that stays.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_CHUNK = 10_000


def main(rows: Path, server: str) -> None:
    """rows: Parquet with item_id (string) and row (binary)."""
    os.environ.setdefault("FEAST_USAGE", "False")
    feast: Any = importlib.import_module("feast")
    pandas: Any = importlib.import_module("pandas")
    types: Any = importlib.import_module("feast.types")
    frame = pandas.read_parquet(rows)
    frame["event_timestamp"] = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as repo:
        source = Path(repo) / "source.parquet"
        frame.head(1).to_parquet(source)
        store = feast.FeatureStore(
            config=feast.RepoConfig(
                project="bench",
                registry=f"{repo}/registry.db",
                provider="local",
                online_store={"type": "redis", "connection_string": server},
                entity_key_serialization_version=3,
            )
        )
        item = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.STRING)
        view = feast.FeatureView(
            name="items",
            entities=[item],
            ttl=timedelta(days=365),
            schema=[
                feast.Field(name="item_id", dtype=types.String),
                feast.Field(name="row", dtype=types.Bytes),
            ],
            source=feast.FileSource(path=str(source), timestamp_field="event_timestamp"),
            online=True,
        )
        store.apply([item, view])
        began = time.perf_counter()
        for at in range(0, len(frame), _CHUNK):
            store.write_to_online_store("items", frame.iloc[at : at + _CHUNK])
        print(len(frame) / (time.perf_counter() - began), flush=True)
        ids = frame["item_id"].tolist()
        expected = dict(zip(ids, frame["row"], strict=True))
        draw, loop = random.Random(0), asyncio.new_event_loop()

        def answer(asked: list[dict[str, str]], way: str) -> Any:
            given: Any = {"features": ["items:row"], "entity_rows": asked}
            if way == "async":
                return loop.run_until_complete(store.get_online_features_async(**given)).to_dict()
            response = store.get_online_features(**given)
            return response.to_dict() if way == "dict" else response

        for line in sys.stdin:
            way, *counts = json.loads(line)
            taken = []
            for count in counts:
                asked = [{"item_id": i} for i in draw.sample(ids, count)]
                clock, cpu = time.perf_counter(), time.process_time()
                found = answer(asked, way)
                taken.append((time.perf_counter() - clock, time.process_time() - cpu))
                values = found.to_dict() if way == "response" else found
                if values["row"] != [expected[i] for i in values["item_id"]]:
                    raise SystemExit("Feast gave other bytes than it was given")
            print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
