"""A ranker that a user describes in a JSON file: any ID module with any set of content modules.

    {"id_interest": "din_position",
     "item_content": {"modalities": ["fused"], "dim": 16},
     "content": [{"kind": "target_vector"}, {"kind": "dmae", "residual": true}]}

The fields are those of training.models.config.RankerConfig. What the data decides is left out of the file:
modalities, attribute and context tables, ID dim and history length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from contracts.errors import InvalidInput
from training.models.builders import Build
from training.models.columns import AttributeTable
from training.models.config import RankerConfig
from training.models.documents import to_document
from training.models.similarity import Modality

_GIVEN = ("modalities", "attributes", "context", "id_dim", "history_length")


def ranker_file(path: Path) -> Build:
    """What the file describes. InvalidInput names the file or the field."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput("ranker file", str(path), f"cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInput("ranker file", document, "must be an object")
    for name in _GIVEN:
        if name in document:
            raise InvalidInput(f"ranker.{name}", document[name], "is decided by the data")

    def build(
        modalities: Sequence[Modality], attributes: AttributeTable, *, id_dim: int, history_length: int
    ) -> RankerConfig:
        given = {
            "modalities": [to_document(m) for m in modalities],
            "attributes": to_document(attributes),
            "id_dim": id_dim,
            "history_length": history_length,
        }
        return RankerConfig.from_dict({**document, **given})

    return build
