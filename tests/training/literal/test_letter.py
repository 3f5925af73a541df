"""The exported graph really is the letter: whole layers on every token, windows gathered, nothing T x T."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from contracts.errors import InvalidInput
from contracts.onnx_model import OnnxModel
from tests.training.literal.drawn_inputs import drawn_inputs
from tests.training.models.drawn import FEATURES, MODALITIES, ranker
from training.graph import reference, write_graph
from training.literal.chunks import InChunks, literal_chunk
from training.literal.mieu import LiteralMieu
from training.literal.mifu import LiteralIntraModal
from training.literal.ranker import WRITTEN_OUT, LiteralRanker, check_written_out
from training.models.builders import ciubm, dmae
from training.models.ciubm import CiubmConfig
from training.models.columns import AttributeTable
from training.models.config import RankerConfig
from training.models.dmae import DmaeConfig
from training.models.layers import table
from training.models.mieu import Mieu
from training.models.mifu import IntraModal

DIM, B, N, T = 6, 1, 3, 9


def test_mieu_is_the_printed_equations() -> None:
    torch.manual_seed(0)
    trained = Mieu(DIM, 5, 10.0, 3.0, table(T, DIM, 0.5))
    r = torch.rand(B, N, T)
    ages = torch.arange(T).flip(0)
    with torch.no_grad():
        trained.scale.fill_(1.7)
        trained.shift.fill_(-0.4)
        got = LiteralMieu(trained)(r, ages)
        w1, b1, w2, b2 = trained.w1.weight, trained.w1.bias, trained.w2.weight, trained.w2.bias
        for n in range(N):
            for j in range(T):
                score = float(r[0, n, j])
                discrete = (1.7 * score - 0.4) * trained.buckets[int(score * 4)]
                waves: list[float] = []
                for i in range(DIM // 2):
                    angle = 3.0 * score / 10 ** (2 * i / DIM)
                    waves += [np.sin(angle), np.cos(angle)]
                hidden = torch.relu(w1 @ torch.cat([discrete, torch.tensor(waves)]).float() + b1)
                wanted = torch.relu(w2 @ torch.cat([hidden, trained.position[T - 1 - j]]) + b2)
                torch.testing.assert_close(got[0, n, j], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_each_token_attends_to_its_own_window(causal: bool) -> None:
    torch.manual_seed(1)
    trained = IntraModal(DIM, 2, residual=False, layernorm=False, causal=causal)
    tokens, mask = torch.randn(B, N, T, DIM), torch.rand(B, N, T) < 0.7
    with torch.no_grad():
        got = LiteralIntraModal(trained)(tokens, mask)
        q, k, v = trained.w_q(tokens), trained.w_k(tokens), trained.w_v(tokens)
        for n in range(N):
            for i in (int(i) for i in mask[0, n].nonzero()):
                newest = i if causal else min(T - 1, i + 2)
                read = [j for j in range(max(0, i - 2), newest + 1) if mask[0, n, j]]
                weights = torch.softmax(k[0, n, read] @ q[0, n, i] / DIM**0.5, dim=0)
                torch.testing.assert_close(got[0, n, i], weights @ v[0, n, read], rtol=1e-5, atol=1e-6)


def shapes_of_values(path: Path, inputs: dict[str, Any]) -> list[tuple[int, ...]]:
    """Shapes of everything that the graph computes for these inputs."""
    model = onnx.load(path)
    kept = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in kept)
    onnx.save(model, path.with_suffix(".all.onnx"))
    return [value.shape for value in OnnxModel(path.with_suffix(".all.onnx")).run(inputs).values()]


def test_the_graph_computes_tokens_whole(tmp_path: Path) -> None:
    b, n, t, window, d = 2, 5, 23, 11, 8
    model = ranker(DmaeConfig(dim=d), CiubmConfig())
    write_graph(LiteralRanker(model), tmp_path / "literal.onnx")
    shapes = shapes_of_values(tmp_path / "literal.onnx", drawn_inputs(50, b, n, t))
    width = model.items.width
    assert shapes.count((b, n, t, window, d)) >= 4  # keys and values of both modalities
    assert (b, n, t, 2 * d) in shapes  # r^d ⊕ r^sc, hidden ⊕ PE
    assert (b, n, t, 4 * width) in shapes  # [q, k, q - k, q * k]
    assert not [shape for shape in shapes if shape.count(t) > 1]  # nothing T x T
    weights = {tuple(i.dims) for i in onnx.load(tmp_path / "literal.onnx").graph.initializer}
    assert {(2 * d, d), (4 * width, 7)} <= (weights | {w[::-1] for w in weights})
    assert model.content[0].iddu
    decoder = {tuple(p.shape) for p in model.content[0].iddu.parameters() if p.dim() == 2}  # type: ignore[union-attr]
    assert not decoder & (weights | {w[::-1] for w in weights})


def test_chunks_give_what_the_whole_gives(tmp_path: Path) -> None:
    model = ranker(DmaeConfig(dim=8))
    write_graph(LiteralRanker(model), tmp_path / "literal.onnx")
    inputs = drawn_inputs(50, 2, 13, 20)
    wanted = reference(model, inputs)
    for chunk in (1, 4, 13):
        got = InChunks(OnnxModel(tmp_path / "literal.onnx"), chunk).run(inputs)
        for name in wanted:
            np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_only_large_requests_are_cut() -> None:
    long = dmae(MODALITIES, AttributeTable(), history_length=1_000)
    assert literal_chunk(long, 1, 1_000, 64) == 1_000
    assert literal_chunk(long, 1, 500, 1_000) == 500
    assert literal_chunk(long, 1, 1_000, 1_000) == 500
    assert literal_chunk(long, 2, 1_000, 1_000) == 334
    assert literal_chunk(ciubm(MODALITIES, AttributeTable()), 1, 1_000, 1_000) == 1_000
    assert literal_chunk(long, 1, 1_000, 1_000, most=1) == 1


def test_what_is_not_written_out_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(RankerConfig):
        cross_layers: int = 0

    check_written_out(Later(modalities=MODALITIES, **FEATURES))
    with pytest.raises(InvalidInput, match=r"ranker\.cross_layers"):
        check_written_out(Later(modalities=MODALITIES, cross_layers=2))
    assert set(WRITTEN_OUT) <= set(RankerConfig.__dataclass_fields__)
    model = ranker(CiubmConfig())
    model.content.append(torch.nn.Identity())
    with pytest.raises(InvalidInput, match=r"ranker\.content\[1\]"):
        LiteralRanker(model)
