"""Items -> content vectors: the one encoder of live pushes and of backfill. No I/O after open().

An item that cannot be encoded fails alone: its neighbours' vectors do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.bundle import Bundle, open_bundle
from contracts.codec import Rows, encode_records
from contracts.encoder_spec import MODALITIES, EncoderSpec, encoder_spec_from_json
from contracts.errors import BrokenBundle, InvalidInput, RepcenterError
from contracts.guard import PROBES_FILE, Guard, Loss, read_guard
from contracts.images import Pixels, normalise
from contracts.items import Item, attribute_slots, check_item
from contracts.onnx_model import Device, OnnxModel, check_runtime, replay
from contracts.space import DEFAULT_BUCKETS, Space
from contracts.towers import Tokens, Towers
from realtime_infer.pictures import Pictures, decode_here

Matrix = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """K items ready for the graphs. attributes: (K, A) uint32; tokens and pixels by position, where an item
    has them: (L,) int64 and (H, W, 3) uint8; failures: position -> why that item goes no further."""

    item_ids: Sequence[str]
    attributes: npt.NDArray[np.uint32]
    tokens: Mapping[int, Tokens]
    pixels: Mapping[int, Pixels]
    failures: Mapping[int, RepcenterError]

    def __len__(self) -> int:
        return len(self.item_ids)

    def part(self, start: int, stop: int) -> Prepared:
        """Items start to stop alone, at positions from 0."""

        def cut(values: Mapping[int, T]) -> dict[int, T]:
            return {i - start: value for i, value in values.items() if start <= i < stop}

        kept = slice(start, stop)
        return Prepared(
            self.item_ids[kept], self.attributes[kept], cut(self.tokens), cut(self.pixels), cut(self.failures)
        )


def join(parts: Sequence[Prepared]) -> Prepared:
    """Items prepared by one encoder, one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()

    def moved(of: Callable[[Prepared], Mapping[int, T]]) -> dict[int, T]:
        return {s + i: value for s, part in zip(starts, parts, strict=False) for i, value in of(part).items()}

    return Prepared(
        [item_id for part in parts for item_id in part.item_ids],
        np.concatenate([part.attributes for part in parts]),
        moved(lambda part: part.tokens),
        moved(lambda part: part.pixels),
        moved(lambda part: part.failures),
    )


@dataclass(frozen=True)
class Encoded:
    """K items' vectors: one (K, d) float32 per modality in the space's order, zero where missing;
    attributes (K, A) uint32; failures: position -> why that item has none (its rows are zero)."""

    vectors: list[Matrix]
    attributes: npt.NDArray[np.uint32]
    failures: Mapping[int, RepcenterError]

    @property
    def good(self) -> npt.NDArray[np.int64]:
        """(G,) positions of the items that were encoded, rising."""
        kept = np.ones(len(self.attributes), dtype=bool)
        kept[list(self.failures)] = False
        return np.flatnonzero(kept)


class Encoder:
    """An opened encoder bundle. prepare() of one batch may run beside run() of another."""

    def __init__(
        self,
        bundle: Bundle,
        spec: EncoderSpec,
        models: Mapping[str, OnnxModel],
        tokenizer: Tokenizer,
        buckets: int,
    ) -> None:
        self._bundle = bundle
        self._spec = spec
        self._models = models
        self._head = models["head"]
        self._towers = Towers(
            tokenizer, spec.max_tokens, models["text"], models["image"], spec.image_input, spec.image_output
        )
        self._text_dim = _width(self._head, "text_features")
        self._image_dim = _width(self._head, "image_features")
        self.space: Space = spec.space(bundle.digest, buckets)
        sealed = PROBES_FILE in bundle.manifest.files  # an older bundle is held to the cosine error alone
        self.guard = read_guard(bundle.file(PROBES_FILE), self.space) if sealed else Guard()
        self.digest = bundle.digest
        self.lost: Callable[[Space, Loss], None] | None = None  # told what quantising took from each batch

    @classmethod
    def open(
        cls,
        bundle_uri: str,
        digest: str | None = None,
        *,
        device: Device = "cpu",
        threads: int = 1,
        buckets: int = DEFAULT_BUCKETS,
    ) -> Self:
        """Open a bundle, check its digests and replay its golden inputs on this device.

        buckets: of the space that it fills, part of its identity: a new space's are `buckets_for` its items.

        Raises NotFound, BrokenBundle, UnknownVersion, ProviderUnavailable.
        """
        check_runtime()
        bundle = open_bundle(bundle_uri, digest)
        if bundle.manifest.kind != "encoder":
            raise BrokenBundle(f"bundle {bundle_uri} is a {bundle.manifest.kind} bundle, not an encoder")
        spec = encoder_spec_from_json(dict(bundle.manifest.content))
        graphs = {"text": spec.text_graph, "image": spec.image_graph, "head": spec.head_graph}
        models = {
            graph: OnnxModel(bundle.file(name), device=device, threads=threads)
            for graph, name in graphs.items()
        }
        tokenizer = Tokenizer.from_file(str(bundle.file(spec.tokenizer)))
        encoder = cls(bundle, spec, models, tokenizer, buckets)
        encoder.check()
        return encoder

    def check(self) -> float:
        """Replay the golden inputs: the largest difference, or BrokenBundle above the tolerance."""
        return replay(self._bundle, self._models, self._spec.tolerance)

    def encode(self, items: Sequence[Item]) -> Encoded:
        """K items -> vectors and attribute slots: `prepare` with pictures decoded here, then `run`."""
        return self.run(self.prepare(items, decode_here(items, self.picture_size)))

    @property
    def picture_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that the image tower takes."""
        return self._spec.image.height, self._spec.image.width

    def prepare(self, items: Sequence[Item], pictures: Pictures) -> Prepared:
        """Everything before the graphs: checks, attribute slots, tokens. May run beside run().

        pictures: of the items that have one, by position, decoded (realtime_infer.pictures).
        """
        count, failures = len(items), dict[int, RepcenterError]()
        attributes = np.zeros((count, self.space.attribute_slots), dtype=np.uint32)
        texts, pixels = dict[int, str](), dict[int, Pixels]()
        for i, item in enumerate(items):
            try:
                attributes[i] = attribute_slots(check_item(item).attributes, self._spec.attributes)
                picture = pictures.get(i)
                if isinstance(picture, RepcenterError):
                    raise picture
                if picture is None and item.has_picture:
                    raise InvalidInput("image_url", item.image_url, "was not fetched before it was encoded")
                text = self._spec.template.render(item.text)
                if picture is None and not text:
                    fields = ", ".join(self._spec.template.fields)
                    raise InvalidInput("item", item.item_id, f"has no picture and no text in {fields}")
            except RepcenterError as error:
                failures[i] = error
                attributes[i] = 0
                continue
            if text:
                texts[i] = text
            if picture is not None:
                pixels[i] = picture
        tokens = self._tokens(texts, failures)
        for i in failures:
            pixels.pop(i, None)
        return Prepared([item.item_id for item in items], attributes, tokens, pixels, failures)

    def _tokens(self, texts: Mapping[int, str], failures: dict[int, RepcenterError]) -> dict[int, Tokens]:
        """A text on which the tokeniser raises becomes a failure of its own."""
        try:
            return dict(zip(texts, self._towers.tokens(list(texts.values())), strict=True))
        except Exception:  # tokenizers raises plain Exception
            tokens = dict[int, Tokens]()
        for i, text in texts.items():
            try:
                tokens[i] = self._towers.tokens([text])[0]
            except Exception as error:
                failures[i] = InvalidInput("text", text, f"cannot be tokenised ({type(error).__name__})")
        return tokens

    def run(self, prepared: Prepared) -> Encoded:
        """The graphs. Failures are per item; raises only where a graph does."""
        failures = dict(prepared.failures)
        blocks = self._vectors(len(prepared), prepared.tokens, prepared.pixels)
        self._refuse_not_finite(prepared.item_ids, blocks, failures)
        return Encoded(blocks, prepared.attributes, failures)

    def records(self, encoded: Encoded, sequences: npt.NDArray[np.uint64]) -> Rows:
        """The records of the G good items, those that lost too much flagged (contracts.guard).

        sequences: (K,) uint64 -> (G,) of the space's dtype.
        """
        good = encoded.good
        vectors = [block[good] for block in encoded.vectors]
        rows = encode_records(vectors, sequences[good], encoded.attributes[good])
        loss = self.guard.mark(vectors, rows, self.space)
        if self.lost is not None and len(rows):
            self.lost(self.space, loss)
        return rows

    def _vectors(
        self, count: int, tokens: Mapping[int, Tokens], pixels: Mapping[int, Pixels]
    ) -> list[Matrix]:
        blocks = [np.zeros((count, dim), dtype=np.float32) for dim in self.space.dims]
        rows = np.array(sorted(tokens.keys() | pixels.keys()), dtype=np.int64)
        if len(rows) == 0:
            return blocks
        text_features = np.zeros((count, self._text_dim), dtype=np.float32)
        image_features = np.zeros((count, self._image_dim), dtype=np.float32)
        has_text, has_image = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        if tokens:
            at = list(tokens)
            text_features[at] = self._towers.token_features(list(tokens.values()))
            has_text[at] = True
        if pixels:
            at = list(pixels)
            values = np.stack([normalise(picture, self._spec.image) for picture in pixels.values()])
            image_features[at] = self._towers.image_features(values)
            has_image[at] = True
        outputs = self._head.run(
            {
                "text_features": text_features[rows],
                "image_features": image_features[rows],
                "has_text": has_text[rows],
                "has_image": has_image[rows],
            },
            MODALITIES,
        )
        for block, name in zip(blocks, MODALITIES, strict=True):
            block[rows] = outputs[name]
        return blocks

    @staticmethod
    def _refuse_not_finite(
        item_ids: Sequence[str], blocks: list[Matrix], failures: dict[int, RepcenterError]
    ) -> None:
        broken = np.zeros(len(item_ids), dtype=bool)
        for block in blocks:
            broken |= ~np.isfinite(block).all(axis=1)
        for i in np.flatnonzero(broken).tolist():
            failures[i] = InvalidInput("item", item_ids[i], "has a vector that is not finite")
            for block in blocks:
                block[i] = 0


def _width(model: OnnxModel, name: str) -> int:
    width = model.input_shapes.get(name, (None,))[-1]
    if not isinstance(width, int):
        raise BrokenBundle(f"head graph: input {name} has no fixed width ({width})")
    return width
