"""Every error of a gRPC door as a status; contracts.problem owns the table."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
import orjson

from contracts.errors import RepcenterError
from contracts.problem import GRPC_KEY, grpc_status, problem, retry_after_s

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class GrpcErrors:
    """How one service refuses. service: its full name; process: whose log knows of unforeseen errors."""

    service: str
    process: str

    async def abort(self, context: Context, error: Exception, method: str) -> NoReturn:
        """End the call with the error's status and, in trailing metadata GRPC_KEY, its problem."""
        if not isinstance(error, RepcenterError):
            log.error("%s failed", method, exc_info=error)  # the log has the trace, the answer does not
            await context.abort(
                grpc.StatusCode.INTERNAL, f"an error of ours; the {self.process}'s log says more"
            )
        if error.code == "internal":
            log.error("%s: %s", method, error)
        metadata: list[tuple[str, str | bytes]] = [
            (GRPC_KEY, orjson.dumps(problem(error, f"/{self.service}/{method}")))
        ]
        if (wait_s := retry_after_s(error)) is not None:
            metadata.append(("grpc-retry-pushback-ms", str(math.ceil(wait_s * 1e3))))
        await context.abort(grpc.StatusCode[grpc_status(error)], str(error), tuple(metadata))
