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
from training.models.config import RankerConfig
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
        view = self._view(rows, requests)
        parts = [view.candidates]
        if self.id_interest is not None:
            parts.append(self.id_interest(view))
        parts += [module(view) for module in self.content]
        if self.context is not None:
            about = self.context(_given(requests.context, "context"), requests.context_values)
            parts.append(about.unsqueeze(1).expand(-1, requests.candidates.shape[1], -1))
        logit: Tensor = self.network(torch.cat(parts, dim=2)).squeeze(2)
        return RankerOutput(logit, logit.new_zeros(()))

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
