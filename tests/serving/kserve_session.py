"""What users of KServe's clients write, in an environment of its own: URL of HTTP, HOST:PORT of gRPC -> JSON.

Imports nothing of the project: KServe brings stubs of the same protobuf package.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

HTTP, GRPC, CANDIDATES, BEHAVIOURS = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5])


def request(*, binary: bool) -> InferRequest:
    inputs = []
    for name, values in (("candidates", CANDIDATES), ("behaviours", BEHAVIOURS)):
        tensor = InferInput(name, [len(values)], "BYTES")
        tensor.set_data_from_numpy(
            np.array([v.encode() for v in values], dtype=np.object_), binary_data=binary
        )
        inputs.append(tensor)
    return InferRequest("default", inputs, request_id="42")


def told(answer: Any) -> dict[str, Any]:
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    return {
        "id": answer.id,
        "scores": [float(v).hex() for v in outputs["scores"]],
        "statuses": outputs["statuses"].tolist(),
    }


async def main() -> None:
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=5))
    rpc = InferenceGRPCClient(GRPC)
    sessions = {
        "http ready": await rest.is_server_ready(HTTP) and await rest.is_model_ready(HTTP, "default"),
        "grpc ready": await rpc.is_server_ready() and await rpc.is_model_ready("default"),
        "http json": told(await rest.infer(HTTP, request(binary=False), model_name="default")),
        "http binary": told(await rest.infer(HTTP, request(binary=True), model_name="default")),
        "grpc": told(await rpc.infer(request(binary=True))),
    }
    await rest.close()
    await rpc.close()
    print(json.dumps(sessions))


asyncio.run(main())
