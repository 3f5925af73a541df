"""What an encoder bundle's manifest says: graphs, text template, picture preprocessing, attribute slots.

| graph | inputs                                                              | outputs                    |
| ----- | ------------------------------------------------------------------- | -------------------------- |
| text  | input_ids, attention_mask (K, L) int64                              | text_features (K, d_text)  |
| image | named in the spec: pixels (K, 3, H, W) float32                      | named in the spec (K, d_i) |
| head  | text_features, image_features float32, has_text, has_image (K,) bool | text, image, fused (K, d)  |

The head's outputs are unit vectors; a missing modality is a zero row, `fused` needs at least one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from contracts.errors import InvalidInput, UnknownVersion
from contracts.images import ImagePreprocessing, preprocessing_from_json
from contracts.items import AttributeField, TextTemplate
from contracts.space import DEFAULT_BUCKETS, Modality, Space

ENCODER_SPEC_VERSION = 1
MODALITIES = ("text", "image", "fused")


@dataclass(frozen=True)
class EncoderSpec:
    """dim: of all three vectors; *_graph and tokenizer: file names in the bundle."""

    dim: int
    template: TextTemplate
    max_tokens: int
    image: ImagePreprocessing
    image_input: str
    image_output: str
    attributes: tuple[AttributeField, ...]
    tolerance: float = 1e-3
    text_graph: str = "text.onnx"
    image_graph: str = "image.onnx"
    head_graph: str = "head.onnx"
    tokenizer: str = "tokenizer.json"

    def to_json(self) -> dict[str, Any]:
        return {"version": ENCODER_SPEC_VERSION, **asdict(self)}

    def space(self, digest: str, buckets: int = DEFAULT_BUCKETS) -> Space:
        """The space that the bundle with this digest fills; buckets: `buckets_for` its items."""
        modalities = tuple(Modality(name, self.dim) for name in MODALITIES)
        return Space(digest, modalities, self.attributes, buckets=buckets)


def encoder_spec_from_json(document: dict[str, Any]) -> EncoderSpec:
    """`EncoderSpec.to_json()` back; UnknownVersion or InvalidInput otherwise."""
    if document.get("version") != ENCODER_SPEC_VERSION:
        raise UnknownVersion("encoder spec", document.get("version"), ENCODER_SPEC_VERSION)
    try:
        return EncoderSpec(
            dim=int(document["dim"]),
            template=TextTemplate(
                tuple(document["template"]["fields"]), int(document["template"]["version"])
            ),
            max_tokens=int(document["max_tokens"]),
            image=preprocessing_from_json(document["image"]),
            image_input=str(document["image_input"]),
            image_output=str(document["image_output"]),
            attributes=tuple(
                AttributeField(str(a["name"]), a["kind"], int(a["slots"])) for a in document["attributes"]
            ),
            tolerance=float(document["tolerance"]),
            text_graph=str(document["text_graph"]),
            image_graph=str(document["image_graph"]),
            head_graph=str(document["head_graph"]),
            tokenizer=str(document["tokenizer"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("encoder spec", document, f"is malformed: {error!r}") from error
