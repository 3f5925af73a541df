"""Frozen dataclasses <-> plain JSON documents, with errors that name the field."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from contracts.errors import InvalidInput

T = TypeVar("T")


def to_document(value: Any) -> Any:
    """Dataclasses become objects, tuples become lists, the rest stays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_document(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_document(v) for v in value]
    return value


def from_document(cls: type[T], document: object, where: str) -> T:
    """`to_document` back. InvalidInput names what is unknown, missing or of another type."""
    if not isinstance(document, Mapping):
        raise InvalidInput(where, document, "must be an object")
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in document:
        if key not in names:
            raise InvalidInput(f"{where}.{key}", document[key], f"is unknown, {where} has {', '.join(names)}")
    values = {key: _read(hints[key], value, f"{where}.{key}") for key, value in document.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InvalidInput(where, document, str(error)) from error


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if not (isinstance(value, str) and value in args):
            raise InvalidInput(where, value, f"must be one of {', '.join(args)}")
        return value
    if dataclasses.is_dataclass(value):
        return value  # already read, its own __post_init__ has checked it
    if origin in (Union, types.UnionType):
        return None if value is None else _read(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InvalidInput(where, value, "must be a list")
        hints = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(hints) != len(value):
            raise InvalidInput(where, value, f"must have {len(hints)} entries")
        return tuple(_read(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_document(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InvalidInput(where, value, f"must be {hint.__name__}")
    return value
