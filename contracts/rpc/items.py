"""Items as messages, and back."""

from __future__ import annotations

from contracts.item_json import picture
from contracts.items import Item
from contracts.rpc.columns import column_messages, read_columns
from contracts.rpc.v1 import repcenter_pb2 as pb


def item_message(item: Item) -> pb.Item:
    return pb.Item(
        item_id=item.item_id,
        text=item.text,
        attributes=column_messages(item.attributes),
        image=item.image,
        image_url=item.image_url,
    )


def item_of(message: pb.Item, where: str = "") -> Item:
    """InvalidInput, which names a field below `where`, where an attribute has no value or a data URI none."""
    below = f"{where}." if where else ""
    return Item(
        message.item_id,
        dict(message.text),
        read_columns(message.attributes, f"{below}attributes"),
        *picture(
            message.image if message.HasField("image") else None,
            message.image_url if message.HasField("image_url") else None,
            f"{below}image_url",
        ),
    )
