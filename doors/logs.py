"""The log of a process: lines for people, or a JSON object per line for machines, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from doors.settings import LogSettings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, process, message; the trace of an error; what `extra` gave."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        whole, ms = divmod(round(record.created * 1e3), 1_000)
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{ms:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        given = vars(record).keys() - _KNOWN - line.keys()
        line |= {name: getattr(record, name) for name in sorted(given)}
        return json.dumps(line, default=str)  # in ASCII: any text can be written, half characters too


def configure_logs(process: str, settings: LogSettings | None = None) -> None:
    """process: its name in JSON lines. Called once, at start; what the libraries log goes the same way."""
    chosen = settings or LogSettings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process) if chosen.log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=chosen.log_level.upper(), handlers=[handler], force=True)
