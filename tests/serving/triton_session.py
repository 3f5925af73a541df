"""What users of tritonclient write, run in an environment of its own: HOST:PORT of HTTP and gRPC -> JSON.

Imports nothing of the project: tritonclient brings stubs of the same protobuf package.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

HTTP, GRPC, CANDIDATES, BEHAVIOURS = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5])


def session(kind: Any, target: str, **how: Any) -> dict[str, Any]:
    """how: of each input's data; the answer's tensors and what the server says of itself."""
    client = kind.InferenceServerClient(target)
    tensors = []
    for name, values in (("candidates", CANDIDATES), ("behaviours", BEHAVIOURS)):
        tensor = kind.InferInput(name, [len(values)], "BYTES")
        tensor.set_data_from_numpy(np.array([v.encode() for v in values], dtype=np.object_), **how)
        tensors.append(tensor)
    wanted = [kind.InferRequestedOutput(name, **how) for name in ("scores", "statuses")]
    metadata = client.get_model_metadata(
        "default", **({"as_json": True} if kind is tritonclient.grpc else {})
    )
    packed = {("" if kind is tritonclient.grpc else "request_") + "compression_algorithm": "gzip"}
    answers = [
        client.infer("default", tensors, request_id="42", client_timeout=5, timeout=5_000_000)
        if kind is tritonclient.grpc
        else client.infer("default", tensors, request_id="42", timeout=5_000_000),
        client.infer("default", tensors, outputs=wanted, model_version=metadata["versions"][0]),
        client.infer("default", tensors, priority=1, **packed),
    ]
    try:
        client.infer("default", tensors[1:])
        refused = ""
    except InferenceServerException as error:
        refused = str(error)
    response = answers[0].get_response()
    return {
        "live": client.is_server_live() and client.is_server_ready() and client.is_model_ready("default"),
        "inputs": [t["name"] for t in metadata["inputs"]],
        "id": response["id"] if isinstance(response, dict) else response.id,
        "scores": [[float(v).hex() for v in answer.as_numpy("scores")] for answer in answers],
        "statuses": [answer.as_numpy("statuses").tolist() for answer in answers],
        "refused": refused,
    }


print(
    json.dumps(
        {
            "http binary": session(tritonclient.http, HTTP, binary_data=True),
            "http json": session(tritonclient.http, HTTP, binary_data=False),
            "grpc": session(tritonclient.grpc, GRPC),
        }
    )
)
