"""The typed async client of both doors, over HTTP and gRPC with the same results and errors.

    async with HttpClient("http://127.0.0.1:8080") as client:
        request = ScoreRequest(["film-50", "film-260"], user={"age": 34}, context={"device": "tv"})
        scores = await client.score(request)

Imports contracts only. `score_body`, `read_scores`, `score_message` and `read_score_message` are the
wire formats by themselves, for drivers with another event loop.
"""

from contracts.rpc.items import item_message
from serving.client.credentials import Credentials
from serving.client.errors import grpc_error, http_error
from serving.client.http import HttpClient
from serving.client.items import ItemStatus, Receipt, item_body, item_path
from serving.client.rpc import GrpcClient
from serving.client.scores import read_score_message, read_scores, score_body, score_message

__all__ = [
    "Credentials",
    "GrpcClient",
    "HttpClient",
    "ItemStatus",
    "Receipt",
    "grpc_error",
    "http_error",
    "item_body",
    "item_message",
    "item_path",
    "read_score_message",
    "read_scores",
    "score_body",
    "score_message",
]
