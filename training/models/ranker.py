"""The ranker: one ID module, any set of content modules, a deep network (DMAE eq 15, MIM eq 9)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput
from training.models.ciubm import Ciubm, CiubmConfig
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import Dmae, DmaeConfig
from training.models.id_interest import id_interest
from training.models.items import ItemEmbedding, ItemRows
from training.models.layers import ages, mlp
from training.models.similarity import Compared, compare
from training.models.simtier import SimTier, SimTierConfig
from training.models.target_vector import TargetVector
from training.models.view import ContentInterest, View


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
        self.items = ItemEmbedding(config.attributes, config.id_dim, config.attribute_dim)
        width = self.items.width
        self.id_interest = id_interest(
            config.id_interest,
            width,
            config.din_hidden,
            softmax=config.din_softmax,
            history_length=config.history_length,
        )
        self.content = nn.ModuleList(_content(c, config, width) for c in config.content)
        features = width + sum(cast(int, module.width) for module in self.content)
        if self.id_interest is not None:
            features += width
        self.network = mlp(features, config.hidden, 1)

    def forward(
        self, rows: ItemRows, candidates: Tensor, behaviours: Tensor, behaviour_mask: Tensor
    ) -> RankerOutput:
        """candidates: (B, N) int32; behaviours: (B, T) int32, newest last; behaviour_mask: (B, T) bool.

        T may be anything from 1 to T_max.
        """
        view = self._view(rows, candidates, behaviours, behaviour_mask)
        parts, auxiliary = [view.candidates], view.candidates.new_zeros(())
        if self.id_interest is not None:
            parts.append(self.id_interest(view))
        for module in self.content:
            output = cast(ContentInterest, module)(view)
            parts.append(output.features)
            if output.auxiliary is not None:
                auxiliary = auxiliary + output.auxiliary
        logit: Tensor = self.network(torch.cat(parts, dim=2))
        return RankerOutput(logit.squeeze(2), auxiliary)

    def _view(self, rows: ItemRows, candidates: Tensor, behaviours: Tensor, behaviour_mask: Tensor) -> View:
        length = behaviours.shape[1]
        if not torch.compiler.is_compiling() and not 1 <= length <= self.config.history_length:
            raise InvalidInput("behaviours", length, f"T must be 1 to {self.config.history_length}")
        embedded = self.items(rows)
        content: dict[str, Compared] = {}
        for m, modality in enumerate(self.config.modalities):
            if modality.name in self.config.content_modalities:
                codes = rows.codes[:, modality.start : modality.start + modality.dim]
                content[modality.name] = compare(
                    codes, rows.inv_norm[:, m], candidates, behaviours, behaviour_mask
                )
        return View(
            candidates=F.embedding(candidates, embedded),
            behaviours=F.embedding(behaviours, embedded),
            behaviour_mask=behaviour_mask,
            ages=ages(length, behaviours.device),
            content=content,
        )


def _content(content: ContentConfig, config: RankerConfig, item_width: int) -> nn.Module:
    dims = {m.name: m.dim for m in config.modalities}
    match content:
        case CiubmConfig():
            return Ciubm(content, item_width, dims)
        case DmaeConfig():
            return Dmae(content, config.history_length)
        case SimTierConfig():
            return SimTier(content, config.history_length)
        case _:
            return TargetVector(content, dims)
