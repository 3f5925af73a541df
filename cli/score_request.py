"""A score request from the options of a command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from contracts.errors import InvalidInput
from contracts.items import AttributeValue
from contracts.request import Behaviour, Priority, ScoreRequest
from serving.content_json import read_contents


def score_request(
    candidates: list[str],
    behaviours: list[str],
    scene: str,
    user: Sequence[str] = (),
    context: Sequence[str] = (),
    query_file: Path | None = None,
    *,
    user_id: str | None = None,
    explain: int = 0,
    query_text: str = "",
    query_image: Path | None = None,
    contents_file: Path | None = None,
    priority: Priority = "normal",
) -> ScoreRequest:
    """user, context: name=value; query_file: JSON, modality -> list of numbers; query_image: a picture;
    contents_file: JSON, item id -> content, encoded where an item is missing. InvalidInput names what is
    wrong."""
    contents = (
        {} if contents_file is None else read_contents(_text(contents_file, "--contents"), "--contents")
    )
    return ScoreRequest(
        candidates,
        [Behaviour(b) for b in behaviours],
        scene,
        user_id=user_id,
        user=dict(column(u, "--user") for u in user),
        context=dict(column(c, "--context") for c in context),
        query={} if query_file is None else _query(query_file),
        explain=explain,
        query_text=query_text,
        query_image=b"" if query_image is None else _bytes(query_image, "--query-image"),
        missing="mask" if contents_file is None else "encode",
        contents=contents,
        priority=priority,
    )


def column(text: str, option: str) -> tuple[str, AttributeValue]:
    """name=value; a value that reads as a finite number is one."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InvalidInput(option, text, "must be name=value")
    try:
        number = float(value)
    except ValueError:
        return name, value
    return name, number if math.isfinite(number) else value


def _bytes(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(option, str(path), f"cannot be read: {error.strerror}") from error


def _text(path: Path, option: str) -> str:
    try:
        return _bytes(path, option).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(option, str(path), "is not valid UTF-8") from error


def _query(path: Path) -> dict[str, list[float]]:
    """The JSON file's vectors by modality."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput("--query-file", str(path), f"is not a JSON file: {error!r}") from error
    if not isinstance(document, dict) or not all(isinstance(v, list) for v in document.values()):
        raise InvalidInput("--query-file", str(path), "must hold an object of lists of numbers")
    return document
