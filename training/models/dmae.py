"""DMAE, the Distribution-Guided Multimodal-Interest Auto-Encoder (section 4): MIEU, MIFU, IDDU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from contracts.errors import InvalidInput
from training.draws import derive, uniform
from training.losses import Decoder
from training.models.iddu import Iddu, interest_distribution
from training.models.layers import mean_weights, table
from training.models.mieu import Mieu
from training.models.mifu import CrossModal, IntraModal, Tokens
from training.models.similarity import unit_interval
from training.models.view import ContentOutput, View


@dataclass(frozen=True, kw_only=True)
class DmaeConfig:
    """D1 to D20 of the settled choices; the paper's ablations by the names of its Table 3.

    buckets, base, sc_scale: MIEU (eq 2, 3; sc_scale=1 is the letter, which is nearly degenerate on [0, 1]).
    window_radius: 5 = the window of 11 that fits n = 10. intervals n, regions l: the distribution's grid.
    calibration: per modality (scale, shift) of r before everything else, empty = none (D2).
    without_mieu_se: bucketing only. without_mieu_t: l = 1 (D17). without_mifu: mean of MIEU's vectors.
    without_iddu: no decoder.
    """

    modalities: tuple[str, str] = ("text", "image")
    dim: int = 32
    buckets: int = 50
    base: float = 10.0
    sc_scale: float = 50.0
    share_positions: bool = False
    window_radius: int = 5
    residual: bool = False
    layernorm: bool = False
    causal: bool = False
    intervals: int = 10
    regions: int = 10
    mask_ratio: float = 0.3
    decoder: Decoder = "gkl"
    decoder_hidden: int = 64
    lambda_dec: float = 0.7
    calibration: tuple[tuple[float, float], ...] = ()
    without_mieu_se: bool = False
    without_mieu_t: bool = False
    without_mifu: bool = False
    without_iddu: bool = False

    def __post_init__(self) -> None:
        if len(self.modalities) != 2 or self.modalities[0] == self.modalities[1]:
            raise InvalidInput("dmae.modalities", self.modalities, "must be two different modalities")
        if self.dim < 2 or self.dim % 2:
            raise InvalidInput("dmae.dim", self.dim, "must be even, for pairs of sine and cosine")
        if self.buckets < 2:
            raise InvalidInput("dmae.buckets", self.buckets, "must be at least 2")
        if self.window_radius < 0:
            raise InvalidInput("dmae.window_radius", self.window_radius, "must not be negative")
        for name in ("intervals", "regions", "decoder_hidden"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"dmae.{name}", getattr(self, name), "must be at least 1")
        if not 0.0 <= self.mask_ratio < 1.0:
            raise InvalidInput("dmae.mask_ratio", self.mask_ratio, "must be in [0, 1)")
        if self.decoder not in get_args(Decoder):
            raise InvalidInput("dmae.decoder", self.decoder, f"must be one of {get_args(Decoder)}")
        if self.calibration and len(self.calibration) != 2:
            raise InvalidInput("dmae.calibration", self.calibration, "must have one pair per modality")


class Dmae(nn.Module):
    """View -> features (B, N, 2 d): r_*^m1 ⊕ r_*^m2; auxiliary: lambda_dec * L_dec while training."""

    width: int

    def __init__(self, config: DmaeConfig, history_length: int) -> None:
        super().__init__()
        self.config = config
        self.history_length = history_length
        self.width = 2 * config.dim
        self.calibration = config.calibration or ((1.0, 0.0), (1.0, 0.0))
        shared = table(history_length, config.dim, 0.1)
        self.mieu = nn.ModuleList(
            Mieu(
                config.dim,
                config.buckets,
                config.base,
                config.sc_scale,
                shared if config.share_positions else table(history_length, config.dim, 0.1),
                similarity_embedding=not config.without_mieu_se,
            )
            for _ in config.modalities
        )
        if not config.without_mifu:
            self.intra = nn.ModuleList(
                IntraModal(
                    config.dim,
                    config.window_radius,
                    residual=config.residual,
                    layernorm=config.layernorm,
                    causal=config.causal,
                )
                for _ in config.modalities
            )
            self.cross = nn.ModuleList(CrossModal(config.dim) for _ in config.modalities)
        if not config.without_iddu:
            self.regions = 1 if config.without_mieu_t else config.regions
            cells = self.regions * config.intervals
            self.iddu = nn.ModuleList(
                Iddu(config.dim, config.decoder_hidden, cells, config.mask_ratio, config.decoder)
                for _ in config.modalities
            )

    def forward(self, view: View) -> ContentOutput:
        similarities, tokens = self._encode(view)
        means = [x.pool(mean_weights(x.mask)) for x in tokens]  # eq 7
        if self.config.without_mifu:
            interests = means
        else:  # eq 8, 9: each modality under the other's context
            interests = [
                cross(other, x) for cross, other, x in zip(self.cross, reversed(means), tokens, strict=True)
            ]
        b, n = view.candidates.shape[:2]
        features = torch.cat(interests, dim=1).view(b, n, self.width)
        if not self.training or self.config.without_iddu:
            return ContentOutput(features, None)
        return ContentOutput(features, self.config.lambda_dec * self._decode(view, similarities, tokens))

    def _encode(self, view: View) -> tuple[list[Tensor], list[Tokens]]:
        """Per modality: r (B, N, T) and r̂."""
        similarities, tokens = [], []
        for m, name in enumerate(self.config.modalities):
            compared = view.content[name]
            r = unit_interval(compared.cosine, self.calibration[m])
            mask = compared.mask.flatten(0, 1)
            x = self.mieu[m](r, view.ages).flatten(0, 1)
            similarities.append(r)
            tokens.append(Tokens(x, None, mask) if self.config.without_mifu else self.intra[m](x, mask))
        return similarities, tokens

    def _decode(self, view: View, similarities: list[Tensor], tokens: list[Tokens]) -> Tensor:
        """L_dec, eq 13: the sum over both modalities."""
        losses = []
        for m, (iddu, r, x) in enumerate(zip(self.iddu, similarities, tokens, strict=True)):
            draws = None
            if view.draw_keys is not None:
                draws = uniform(derive(view.draw_keys.reshape(-1, 1), view.ages + (m << 32)))
            target = interest_distribution(
                r,
                x.mask.view(r.shape),
                view.ages,
                intervals=self.config.intervals,
                regions=self.regions,
                history_length=self.history_length,
            )
            losses.append(iddu(x, target.flatten(0, 1), draws))
        return torch.stack(losses).sum()
