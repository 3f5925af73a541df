"""A ranker described in a JSON file: built over what the data decides, refused by the field's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.errors import InvalidInput
from training.models.columns import AttributeTable
from training.models.items import ItemContentConfig
from training.models.recency import RecencySimilarityConfig
from training.models.similarity import side_by_side
from training.models.target_vector import TargetVectorConfig
from training.recipes.ranker import builder

MODALITIES = side_by_side([("text", 8), ("image", 8), ("fused", 8)])
TABLE = AttributeTable((2, 1), 9)


def _file(path: Path, document: object) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def test_a_file_describes_any_combination(tmp_path: Path) -> None:
    name = _file(
        tmp_path / "ranker.json",
        {
            "id_interest": "mean",
            "id_trust": True,
            "item_content": {"modalities": ["image"], "dim": 4},
            "content": [{"kind": "target_vector"}, {"kind": "recency_similarity", "starts": [0, 5]}],
        },
    )
    config = builder(name)(MODALITIES, TABLE, id_dim=6, history_length=20)
    assert (config.modalities, config.attributes) == (MODALITIES, TABLE)
    assert (config.id_dim, config.history_length, config.id_interest, config.id_trust) == (
        6,
        20,
        "mean",
        True,
    )
    assert config.item_content == ItemContentConfig(modalities=("image",), dim=4)
    assert config.content == (TargetVectorConfig(), RecencySimilarityConfig(starts=(0, 5)))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "ranker file: must be an object"),
        ({"id_dim": 4}, r"ranker\.id_dim: is decided by the data"),
        ({"content": [{"kind": "moe"}]}, r"ranker\.content\[0\]\.kind"),
        ({"item_content": {"dim": 0}}, r"item_content\.dim"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_field(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        builder(_file(tmp_path / "ranker.json", document))(MODALITIES, TABLE, id_dim=4, history_length=8)


def test_what_is_neither_a_name_nor_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="must be among din, din_pos, ciubm, dmae"):
        builder("bst")
    with pytest.raises(InvalidInput, match="cannot be read as JSON"):
        builder(str(tmp_path / "absent.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InvalidInput, match="cannot be read as JSON"):
        builder(str(tmp_path / "broken.json"))
