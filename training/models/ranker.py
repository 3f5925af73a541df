"""The ranker: one ID module, any set of content modules, a deep network (DMAE eq 15, MIM eq 9)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput
from training.models.ciubm import Ciubm, CiubmConfig
from training.models.columns import ColumnEmbedding
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import Dmae, DmaeConfig
from training.models.id_interest import id_interest
from training.models.items import ItemEmbedding, ItemRows
from training.models.layers import ages, mlp
from training.models.query import QueryConfig, QuerySimilarity
from training.models.recency import RecencySimilarity, RecencySimilarityConfig
from training.models.similarity import Compared, compare, query_cosine
from training.models.simtier import SimTier, SimTierConfig
from training.models.target_vector import TargetVector
from training.models.view import ContentInterest, Requests, View


class RankerOutput(NamedTuple):
    """logit: (B, N) float32; auxiliary: () float32, weighted, what training adds to the loss; 0 in eval."""

    logit: Tensor
    auxiliary: Tensor


class Ranker(nn.Module):
    """Scores N candidates of B requests over K item rows.

    In training mode DMAE's decoder adds its loss; in eval mode it is not evaluated at all, so an exported
    graph does not have it. A candidate of row 0 (padding) gets a logit that means nothing.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        self.places = {m.name: (i, m) for i, m in enumerate(config.modalities)}
        self.items = ItemEmbedding(
            config.attributes,
            config.id_dim,
            config.attribute_dim,
            id_trust=config.id_trust,
            content=config.item_content,
            modalities=self.places,
        )
        width = self.items.width
        self.id_interest = id_interest(
            config.id_interest,
            width,
            config.din_hidden,
            softmax=config.din_softmax,
            history_length=config.history_length,
            time_gaps=config.time_gaps,
        )
        self.context = ColumnEmbedding(config.context, config.attribute_dim) if config.context.slots else None
        self.content = nn.ModuleList(_content(c, config, width) for c in config.content)
        features = width + sum(cast(int, module.width) for module in self.content)
        if self.id_interest is not None:
            features += width
        if self.context is not None:
            features += self.context.width
        self.network = mlp(features, config.hidden, 1)

    def forward(self, rows: ItemRows, requests: Requests) -> RankerOutput:
        """T may be anything from 1 to T_max. InvalidInput where an input that is read is None."""
        view = self._view(rows, requests)
        parts, auxiliary = [view.candidates], view.candidates.new_zeros(())
        if self.id_interest is not None:
            parts.append(self.id_interest(view))
        for module in self.content:
            output = cast(ContentInterest, module)(view)
            parts.append(output.features)
            if output.auxiliary is not None:
                auxiliary = auxiliary + output.auxiliary
        if self.context is not None:
            about = self.context(_given(requests.context, "context"), requests.context_values)
            parts.append(about.unsqueeze(1).expand(-1, requests.candidates.shape[1], -1))
        logit: Tensor = self.network(torch.cat(parts, dim=2))
        return RankerOutput(logit.squeeze(2), auxiliary)

    def _view(self, rows: ItemRows, requests: Requests) -> View:
        config, length = self.config, requests.behaviours.shape[1]
        if not torch.compiler.is_compiling() and not 1 <= length <= config.history_length:
            raise InvalidInput("behaviours", length, f"T must be 1 to {config.history_length}")
        embedded = self.items(rows)
        content: dict[str, Compared] = {}
        query: dict[str, Tensor] = {}
        for name in config.content_modalities:
            column, modality = self.places[name]
            codes = rows.codes[:, modality.start : modality.start + modality.dim]
            content[name] = compare(
                codes,
                rows.inv_norm[:, column],
                requests.candidates,
                requests.behaviours,
                requests.behaviour_mask,
            )
        for name in config.query_modalities:
            column, modality = self.places[name]
            part = slice(modality.start, modality.start + modality.dim)
            query[name] = query_cosine(
                rows.codes[:, part],
                rows.inv_norm[:, column],
                requests.candidates,
                _given(requests.query_codes, "query_codes")[:, part],
                _given(requests.query_inv_norm, "query_inv_norm")[:, column],
            )
        return View(
            candidates=F.embedding(requests.candidates, embedded),
            behaviours=F.embedding(requests.behaviours, embedded),
            behaviour_mask=requests.behaviour_mask,
            ages=ages(length, requests.behaviours.device),
            content=content,
            gaps=_given(requests.gaps, "gaps") if config.time_gaps else None,
            query=query,
            draw_keys=requests.draw_keys,
        )


def _given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise InvalidInput(name, value, "must be given: the ranker reads it")
    return value


def _content(content: ContentConfig, config: RankerConfig, item_width: int) -> nn.Module:
    dims = {m.name: m.dim for m in config.modalities}
    match content:
        case CiubmConfig():
            return Ciubm(content, item_width, dims)
        case DmaeConfig():
            return Dmae(content, config.history_length)
        case SimTierConfig():
            return SimTier(content, config.history_length)
        case RecencySimilarityConfig():
            return RecencySimilarity(content)
        case QueryConfig():
            return QuerySimilarity(content)
        case _:
            return TargetVector(content, dims)
