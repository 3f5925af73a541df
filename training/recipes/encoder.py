"""One encoder bundle from items and interest pairs: text tower, image tower, head (MIM sections 3.2, 3.3)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.bundle import Bundle, seal, write_golden
from contracts.encoder_spec import EncoderSpec
from contracts.errors import InvalidInput
from contracts.guard import PROBES_FILE, Guard, write_guard
from contracts.items import AttributeField, Item, TextTemplate
from contracts.onnx_model import OnnxModel, replay
from contracts.towers import Towers
from training.item_features import Rows, image_features, text_features
from training.recipes.csft import CsftReport, train_head
from training.recipes.csft_config import CsftConfig
from training.recipes.encoder_graphs import export_head, export_image_tower, golden, golden_rows, probes
from training.recipes.image_tower import ImageTowerConfig, ImageTowerReport, train_image_tower
from training.recipes.named_tower import named_tower
from training.recipes.pair_split import Pairs
from training.recipes.text_tower import text_tower

StageProgress = Callable[[str, int, int], None]  # (stage, done, in all)
STAGES = ("text tower", "texts", "image tower", "pictures", "head", "bundle")
CACHE = Path("var/cache")
MAX_DIM = 1040  # of a vector of a space
MAX_TOKENS = 512  # positions of MiniLM


@dataclass(frozen=True)
class EncoderConfig:
    """threads: of one operation, of torch as of ONNX Runtime."""

    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    csft: CsftConfig = field(default_factory=CsftConfig)
    threads: int = 2
    cache: Path = CACHE


@dataclass(frozen=True)
class EncoderReport:
    """unreadable: pictures given that could not be read, counted as absent; seconds: by stage.

    image_tower: None where the user named one; parity: torch against ONNX by exported graph.
    """

    items: int
    texts: int
    pictures: int
    unreadable: int
    image_tower: ImageTowerReport | None
    csft: CsftReport
    parity: Mapping[str, float]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _silent(stage: str, done: int, total: int) -> None:
    """A StageProgress that shows nothing."""


def train_encoder(
    items: Sequence[Item],
    pairs: npt.NDArray[np.int32],
    *,
    text_fields: Sequence[str],
    attribute_fields: Sequence[AttributeField],
    directory: Path,
    image_tower: Path | None = None,
    rows: npt.NDArray[np.integer[Any]] | None = None,
    dim: int = 128,
    max_tokens: int = 128,
    seed: int = 0,
    config: EncoderConfig | None = None,
    progress: StageProgress = _silent,
) -> tuple[Bundle, EncoderReport]:
    """Train, export and seal one encoder in `directory` (made; must hold nothing).

    items: I in catalogue order; pairs: (P, 2) rows of them, query and chosen item. An image query that is
    no catalogue item is an Item of its own, with a picture alone, behind the catalogue. rows: (R,) of the
    items that may be learnt from, None for all; new items are left out here. image_tower: an ONNX file
    (training.recipes.named_tower), None to train one on the items' pictures.
    Equal arguments give equal graphs. Raises InvalidInput, NotFound or BrokenBundle (parity above 1e-4).
    """
    config = config or EncoderConfig()
    wide, learnt = _checked(items, pairs, rows, dim, max_tokens)
    if directory.exists() and any(directory.iterdir()):
        raise InvalidInput("directory", str(directory), "must be empty")
    directory.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    named = named_tower(image_tower) if image_tower is not None else None  # refused before hours pass

    with clock.stage("text tower"):
        progress("text tower", 0, 1)
        tower = text_tower(config.cache)
        shutil.copyfile(tower.graph, directory / "text.onnx")
        shutil.copyfile(tower.tokenizer, directory / "tokenizer.json")
        progress("text tower", 1, 1)
    template = TextTemplate(tuple(text_fields))
    texts = [template.render(item.text) for item in items]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    text_model = OnnxModel(directory / "text.onnx", threads=config.threads)
    with clock.stage("texts"):
        text = text_features(
            texts, learnt, tokenizer, max_tokens, text_model, lambda d, n: progress("texts", d, n)
        )
    parity: dict[str, float] = {}
    trained: ImageTowerReport | None = None
    with clock.stage("image tower"):
        if named is None:
            pictured = learnt[[items[row].image is not None for row in learnt]]
            net, trained = train_image_tower(
                items,
                pictured,
                text,
                config.image,
                seed=seed,
                threads=config.threads,
                progress=lambda d, n: progress("image tower", d, n),
            )
            named, parity["image"] = export_image_tower(net, directory / "image.onnx")
        else:
            shutil.copyfile(named.graph, directory / "image.onnx")
        progress("image tower", 1, 1)
    spec = EncoderSpec(
        dim=dim,
        template=template,
        max_tokens=max_tokens,
        image=named.preprocessing,
        image_input=named.input,
        image_output=named.output,
        attributes=tuple(attribute_fields),
    )
    image_model = OnnxModel(directory / "image.onnx", threads=config.threads)
    towers = Towers(tokenizer, max_tokens, text_model, image_model, spec.image_input, spec.image_output)
    with clock.stage("pictures"):
        image = image_features(
            items, learnt, spec.image, towers, named.dim, lambda d, n: progress("pictures", d, n)
        )
    with clock.stage("head"):
        head, csft = train_head(
            text,
            image,
            wide,
            learnt,
            dim,
            config.csft,
            seed=seed,
            threads=config.threads,
            progress=lambda d, n: progress("head", d, n),
        )
    with clock.stage("bundle"):
        progress("bundle", 0, 1)
        few = golden_rows(text, image, learnt)
        parity["head"] = export_head(head, text, image, few, directory / "head.onnx")
        models = {
            "text": text_model,
            "image": image_model,
            "head": OnnxModel(directory / "head.onnx", threads=config.threads),
        }
        write_golden(directory, golden(items, texts, few, (text, image), tokenizer, spec, models))
        guard = Guard(probes(text, image, learnt, models["head"], seed))
        write_guard(directory / PROBES_FILE, guard)
        bundle = seal(directory, "encoder", spec.to_json())
        replay(bundle, models, spec.tolerance)
        progress("bundle", 1, 1)
    given = sum(items[row].image is not None for row in learnt)
    pictures = int(image.present.sum())
    report = EncoderReport(
        items=len(learnt),
        texts=int(text.present.sum()),
        pictures=pictures,
        unreadable=given - pictures,
        image_tower=trained,
        csft=csft,
        parity=parity,
        seconds=clock.seconds,
    )
    return bundle, report


def _checked(
    items: Sequence[Item],
    pairs: npt.NDArray[np.int32],
    rows: npt.NDArray[np.integer[Any]] | None,
    dim: int,
    max_tokens: int,
) -> tuple[Pairs, Rows]:
    """Pairs as int64 and the sorted rows to learn from."""
    count = len(items)
    if not count:
        raise InvalidInput("items", count, "must not be empty")
    if not 2 <= dim <= MAX_DIM:
        raise InvalidInput("dim", dim, f"must be 2 to {MAX_DIM}")
    if not 1 < max_tokens <= MAX_TOKENS:
        raise InvalidInput("max_tokens", max_tokens, f"must be 2 to {MAX_TOKENS}")
    learnt = np.arange(count) if rows is None else np.unique(rows).astype(np.int64)
    wide = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    for name, values in (("rows", learnt), ("pairs", wide)):
        bad = values[(values < 0) | (values >= count)]
        if len(bad):
            raise InvalidInput(name, int(bad[0]), f"must be rows of the {count} items")
    if not len(learnt):
        raise InvalidInput("rows", 0, "must name at least one item")
    stray = wide[~np.isin(wide, learnt)]
    if len(stray):
        raise InvalidInput("pairs", int(stray[0]), "is no item of rows, to be learnt from")
    return wide, learnt


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
