"""The head against plain numpy written from MIM eq 3 and 4, and what it does where a modality is missing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import BrokenBundle, InvalidInput
from contracts.onnx_model import OnnxModel
from training.models.encoders import ConvNext
from training.models.fusion import EncoderHead, TensorFusion
from training.seeded import seeded
from training.tower_export import check_parity, export_graph


def features(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T


def erf_gelu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x])


def test_the_fusion_is_an_mlp_of_the_outer_product_with_ones() -> None:
    with seeded(1, 1):
        fusion = TensorFusion(low=3, hidden=5, dim=4, dropout=0.5).eval()
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter)
    image, text = features(6, 3, 2), features(6, 3, 3)
    weights = {name: value.detach().numpy() for name, value in fusion.named_parameters()}
    expected = []
    for i, t in zip(image.numpy(), text.numpy(), strict=True):
        cells = np.outer(np.append(i, 1), np.append(t, 1)).reshape(-1)  # eq 3
        hidden = erf_gelu(weights["wide.weight"] @ cells + weights["wide.bias"])
        expected.append(
            weights["shortcut.weight"] @ cells + weights["narrow.weight"] @ hidden + weights["narrow.bias"]
        )
    with torch.no_grad():
        actual = fusion(image, text).numpy()
    np.testing.assert_allclose(actual, np.array(expected), atol=1e-5)


def test_the_untrained_head_keeps_the_cosines_of_the_towers() -> None:
    text, image = features(40, 6, 1), features(40, 5, 2)
    head = EncoderHead(6, 5, dim=16, low=8, hidden=8).eval()
    head.start(text, image, 0.5)
    everywhere = torch.ones(40, dtype=torch.bool)
    with torch.no_grad():
        got_text, got_image, fused = head(text, image, everywhere, everywhere)
    torch.testing.assert_close(cosines(got_text), cosines(text - text.mean(0)), atol=1e-4, rtol=0)
    torch.testing.assert_close(cosines(got_image), cosines(image - image.mean(0)), atol=1e-4, rtol=0)
    mixed = (0.25 * cosines(got_image) + cosines(got_text)) / 1.25  # the image term weighs 0.5 on both sides
    torch.testing.assert_close(cosines(fused), mixed, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_a_missing_modality_is_a_zero_row_whatever_its_features_hold(rubbish: float) -> None:
    text, image = features(4, 6, 1), features(4, 5, 2)
    with seeded(0, 1):
        head = EncoderHead(6, 5, dim=8, low=4, hidden=8).eval()
        torch.nn.init.normal_(head.fusion.narrow.weight)
    head.start(text, image, 1.0)
    has_text, has_image = torch.tensor([1, 0, 1, 0]).bool(), torch.tensor([1, 1, 0, 0]).bool()
    spoilt_text = torch.where(has_text[:, None], text, rubbish)
    spoilt_image = torch.where(has_image[:, None], image, rubbish)
    with torch.no_grad():
        clean = head(text, image, has_text, has_image)
        spoilt = head(spoilt_text, spoilt_image, has_text, has_image)
    for a, b in zip(clean, spoilt, strict=True):
        assert torch.equal(a, b)
    lengths = [vectors.norm(dim=1).tolist() for vectors in clean]
    expected = ([1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0])
    for got, wanted in zip(lengths, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)


def test_no_gradient_is_nan_where_modalities_are_missing() -> None:
    text, image = features(4, 6, 1), features(4, 5, 2)
    head = EncoderHead(6, 5, dim=8, low=4, hidden=8, dropout=0.0)
    head.start(text, image, 1.0)
    flags = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    got = head(text, torch.where(flags[1][:, None], image, float("nan")), *flags)
    sum(vectors.square().sum() + vectors.sum() for vectors in got).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    assert head.image.linear.weight.grad is not None


def test_fewer_components_than_dimensions_leave_zeros() -> None:
    head = EncoderHead(3, 2, dim=8, low=4).eval()
    head.start(features(2, 3, 1), features(0, 2, 2), 1.0)
    with torch.no_grad():
        text, image, fused = head(
            features(5, 3, 3), torch.zeros(5, 2), torch.ones(5).bool(), torch.zeros(5).bool()
        )
    assert torch.isfinite(fused).all()
    assert not image.any()
    assert text.norm(dim=1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)


def test_a_dimension_too_small_to_hold_both_modalities_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dim"):
        EncoderHead(3, 2, dim=1)


def test_the_image_tower_exports_with_any_number_of_pictures(tmp_path: Path) -> None:
    with seeded(0, 1):
        net = ConvNext((4, 8), (1, 1)).eval()
    path = tmp_path / "image.onnx"
    export_graph(net, {"pixels": torch.rand(3, 3, 32, 32)}, ["features"], {"pixels": {0: "K"}}, path)
    model = OnnxModel(path)
    for count in (1, 5):
        pixels = torch.rand(count, 3, 32, 32)
        with torch.no_grad():
            expected = net(pixels).numpy()
        actual = model.run({"pixels": pixels.numpy()})["features"]
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    with torch.no_grad():
        net.norm.bias.add_(1e-3)
    with pytest.raises(BrokenBundle, match=r"image\.onnx: features differs from torch"):
        check_parity(net, {"pixels": torch.rand(2, 3, 32, 32)}, ["features"], model, "image.onnx")
