"""The ranker to the letter (DMAE eq 15, MIM eq 9): every unit on every candidate, one deep network on all."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput
from training.literal.ciubm import LiteralCiubm
from training.literal.din import LiteralDin, LiteralMean
from training.literal.dmae import LiteralDmae
from training.literal.items import LiteralItems
from training.literal.query import LiteralQuerySimilarity
from training.literal.recency import LiteralRecency
from training.literal.similarity import literal_content, literal_query
from training.literal.simtier import LiteralSimTier
from training.literal.target_vector import LiteralTargetVector
from training.literal.view import LiteralQuery, LiteralView
from training.models.ciubm import Ciubm
from training.models.config import CONTENT_KINDS, RankerConfig
from training.models.dmae import Dmae
from training.models.id_interest import DinInterest, MeanInterest
from training.models.items import ItemRows
from training.models.query import QuerySimilarity
from training.models.ranker import Ranker, RankerOutput
from training.models.recency import RecencySimilarity
from training.models.simtier import SimTier
from training.models.target_vector import TargetVector
from training.models.view import Requests

# what is written out here of RankerConfig: a field that is not listed has to be at its default
WRITTEN_OUT = (
    *("modalities", "attributes", "context", "id_dim", "attribute_dim", "id_trust", "item_content"),
    *("history_length", "id_interest", "din_hidden", "din_softmax", "time_gaps", "content", "hidden"),
)


class LiteralRanker(nn.Module):
    """Shares the parameters of `trained` and computes the same logits, as the papers' equations print them.

    Always as in eval mode: there is no decoder, the auxiliary loss is 0. Raises InvalidInput for a part of
    the config that is not written out here.
    """

    def __init__(self, trained: Ranker) -> None:
        super().__init__()
        self.config = trained.config
        check_written_out(trained.config)
        self.items = LiteralItems(trained.items)
        self.id_interest = _id_interest(trained.id_interest)
        self.context = trained.context  # one vector per request, as in training
        self.content = nn.ModuleList(_content(i, module) for i, module in enumerate(trained.content))
        self.network = trained.network

    def forward(self, rows: ItemRows, requests: Requests) -> RankerOutput:
        """As Ranker.forward."""
        logit = self._logit(self._parts(self._view(rows, requests), requests))
        return RankerOutput(logit, logit.new_zeros(()))

    def explain(self, rows: ItemRows, requests: Requests) -> tuple[Tensor, dict[str, Tensor]]:
        """logit (B, N) and how it came about, by name:

        similarity.<modality> (B, N, T), NaN where a vector is missing; weights.<module> and
        attention.<modality> (B, N, T); distribution.<modality> (B, N, l, n); without.<part> (B, N), the logit
        with zeros for that part of the network's input.
        """
        notes: dict[str, Tensor] = {}
        view = self._view(rows, requests)._replace(notes=notes)
        for name, content in view.content.items():
            notes[f"similarity.{name}"] = torch.where(content.mask, content.cosine, torch.nan)
        parts = self._parts(view, requests)
        for name, part in parts.items():
            notes[f"without.{name}"] = self._logit({**parts, name: torch.zeros_like(part)})
        return self._logit(parts), notes

    def _parts(self, view: LiteralView, requests: Requests) -> dict[str, Tensor]:
        """What the network reads, side by side: (B, N, width) each."""
        parts = {"item": view.candidates}
        if self.id_interest is not None:
            parts["id_interest"] = self.id_interest(view)
        for name, module in zip(content_names(self.config), self.content, strict=True):
            parts[name] = module(view)
        if self.context is not None:
            about = self.context(_given(requests.context, "context"), requests.context_values)
            parts["context"] = about.unsqueeze(1).expand(-1, requests.candidates.shape[1], -1)
        return parts

    def _logit(self, parts: dict[str, Tensor]) -> Tensor:
        logit: Tensor = self.network(torch.cat(list(parts.values()), dim=2)).squeeze(2)
        return logit

    def _view(self, rows: ItemRows, requests: Requests) -> LiteralView:
        config, length = self.config, requests.behaviours.shape[1]
        if not torch.compiler.is_compiling() and not 1 <= length <= config.history_length:
            raise InvalidInput("behaviours", length, f"T must be 1 to {config.history_length}")
        embedded = self.items(rows)
        content = {}
        for m, modality in enumerate(config.modalities):
            if modality.name in config.content_modalities:
                content[modality.name] = literal_content(
                    rows.codes[:, modality.start : modality.start + modality.dim],
                    rows.inv_norm[:, m],
                    requests.candidates,
                    requests.behaviours,
                    requests.behaviour_mask,
                )
        return LiteralView(
            candidates=F.embedding(requests.candidates, embedded),
            behaviours=F.embedding(requests.behaviours, embedded),
            behaviour_mask=requests.behaviour_mask,
            ages=length - 1 - torch.arange(length, device=requests.behaviours.device),
            content=content,
            gaps=_given(requests.gaps, "gaps") if config.time_gaps else None,
            query=self._query(rows, requests),
        )

    def _query(self, rows: ItemRows, requests: Requests) -> dict[str, LiteralQuery]:
        out = {}
        for m, modality in enumerate(self.config.modalities):
            if modality.name in self.config.query_modalities:
                part = slice(modality.start, modality.start + modality.dim)
                out[modality.name] = literal_query(
                    rows.codes[:, part],
                    rows.inv_norm[:, m],
                    requests.candidates,
                    _given(requests.query_codes, "query_codes")[:, part],
                    _given(requests.query_inv_norm, "query_inv_norm")[:, m],
                )
        return out


def content_names(config: RankerConfig) -> list[str]:
    """A name for each content module: its kind, numbered where there are several of it."""
    kinds = [kind for c in config.content for kind, of in CONTENT_KINDS.items() if type(c) is of]
    return [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:i].count(kind) + 1}"
        for i, kind in enumerate(kinds)
    ]


def check_written_out(config: RankerConfig) -> None:
    """Raises InvalidInput, naming the field, where the config asks for what has no literal form."""
    plain = type(config)(modalities=config.modalities)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in WRITTEN_OUT and value != getattr(plain, field.name):
            raise InvalidInput(f"ranker.{field.name}", value, "has no literal graph")


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise InvalidInput(name, value, "must be given: the ranker reads it")
    return value


def _id_interest(trained: nn.Module | None) -> nn.Module | None:
    match trained:
        case None:
            return None
        case MeanInterest():
            return LiteralMean()
        case DinInterest():
            return LiteralDin(trained)
    raise InvalidInput("ranker.id_interest", type(trained).__name__, "has no literal graph")


def _content(i: int, trained: nn.Module) -> nn.Module:
    match trained:
        case Ciubm():
            return LiteralCiubm(trained)
        case Dmae():
            return LiteralDmae(trained)
        case SimTier():
            return LiteralSimTier(trained)
        case TargetVector():
            return LiteralTargetVector(trained)
        case RecencySimilarity():
            return LiteralRecency(trained)
        case QuerySimilarity():
            return LiteralQuerySimilarity(trained)
    raise InvalidInput(f"ranker.content[{i}]", type(trained).__name__, "has no literal graph")
