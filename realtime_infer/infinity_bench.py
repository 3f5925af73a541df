"""The other side of `repcenter bench freshness`: texts through infinity's engine.

Runs in infinity's own environment and imports nothing of ours: `python infinity_bench.py MODEL BATCH`. Of its
input, the first line is a JSON list of texts, answered with their vectors; after each further line it embeds
them all again and prints the seconds that took.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import Any


async def main(model: str, batch: int) -> None:
    """model: a directory in Hugging Face's format; batch: texts at most in one of the engine's batches."""
    infinity: Any = importlib.import_module("infinity_emb")
    importlib.import_module("torch").set_num_threads(1)
    args = infinity.EngineArgs(
        model_name_or_path=model,
        engine="torch",
        device="cpu",
        dtype="float32",
        batch_size=batch,
        compile=False,
        bettertransformer=False,
        model_warmup=False,
    )
    engine = infinity.AsyncEmbeddingEngine.from_args(args)
    async with engine:
        texts: list[str] = json.loads(sys.stdin.readline())
        vectors, _ = await engine.embed(sentences=texts)
        print(json.dumps([vector.tolist() for vector in vectors]), flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            await engine.embed(sentences=texts)
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
