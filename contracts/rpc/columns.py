"""Columns of items, users and requests as messages, and back."""

from __future__ import annotations

from collections.abc import Mapping

from contracts.errors import InvalidInput
from contracts.items import AttributeValue
from contracts.rpc.v1 import repcenter_pb2 as pb


def column_messages(values: Mapping[str, AttributeValue]) -> dict[str, pb.Attribute]:
    """Values by column name -> messages. A number becomes a double."""
    return {name: _message(value) for name, value in values.items()}


def read_columns(messages: Mapping[str, pb.Attribute], where: str) -> dict[str, AttributeValue]:
    """`column_messages` back; InvalidInput names the column of `where` that has no value."""
    return {name: _value(message, f"{where}.{name}") for name, message in messages.items()}


def _message(value: AttributeValue) -> pb.Attribute:
    if isinstance(value, str):
        return pb.Attribute(text=value)
    if isinstance(value, int | float):
        return pb.Attribute(number=value)
    return pb.Attribute(tokens=pb.TokenList(values=value))


def _value(message: pb.Attribute, where: str) -> AttributeValue:
    kind = message.WhichOneof("value")
    if kind == "text":
        return message.text
    if kind == "number":
        return message.number
    if kind == "tokens":
        return list(message.tokens.values)
    raise InvalidInput(where, None, "has no value")
