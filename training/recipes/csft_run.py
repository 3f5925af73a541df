"""One C-SFT training under way: the loss, the optimiser, a step (MIM eq 5, 6)."""

from __future__ import annotations

import numpy as np
import torch

from training.item_features import Features
from training.losses import CsftLoss
from training.models.fusion import EncoderHead
from training.recipes.csft_config import CsftConfig
from training.recipes.head_bench import Vectors
from training.recipes.pair_split import Pairs

_SETTLING_STEPS = 100


class CsftRun:
    """Changes the head that it is given; knows nothing of when to stop."""

    def __init__(
        self, head: EncoderHead, text: Features, image: Features, pairs: Pairs, config: CsftConfig, seed: int
    ) -> None:
        self._head = head
        self._config = config
        self._text, self._image = torch.from_numpy(text.values), torch.from_numpy(image.values)
        self._has_text, self._has_image = torch.from_numpy(text.present), torch.from_numpy(image.present)
        self._pairs = torch.from_numpy(pairs)
        self._rng = np.random.default_rng(seed)
        self._batch = min(config.batch, len(pairs))
        self.loss = CsftLoss(config.w_txt, config.w_img, config.temperature)
        self._rates = (config.learning_rate, config.temperature_rate)
        self._optimiser = torch.optim.AdamW(
            [
                {"params": list(head.parameters()), "weight_decay": config.weight_decay},
                {"params": list(self.loss.parameters()), "weight_decay": 0.0},
            ]
        )

    def settle(self, vectors: Vectors, pairs: Pairs) -> None:
        """Fit the temperatures alone. vectors: (K, d) untrained, by modality; pairs: (P, 2) rows of them."""
        if not len(pairs):
            return
        optimiser = torch.optim.Adam(self.loss.parameters(), lr=self._config.temperature_rate)
        known = {name: torch.from_numpy(values) for name, values in vectors.items()}
        for _ in range(_SETTLING_STEPS):
            chosen = torch.from_numpy(pairs[self._rng.integers(0, len(pairs), self._batch)])
            query, item = chosen[:, 0], chosen[:, 1]
            loss = self.loss(
                known[self._config.query][query],
                known["fused"][item],
                known["text"][item],
                known["image"][item],
                item,
                query_keys=query,
                query_items=query,
                text_present=known["text"][item].any(dim=1),
                image_present=known["image"][item].any(dim=1),
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    def step(self, number: int) -> None:
        """Step `number` of 1 to config.steps: warm-up, then linear decay."""
        config = self._config
        factor = min(1.0, number / max(1, config.warm_up)) * (1.0 - (number - 1) / config.steps)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        chosen = self._rng.integers(0, len(self._pairs), self._batch)
        pairs = self._pairs[torch.from_numpy(chosen)]
        rows, place = torch.unique(pairs, return_inverse=True)
        self._head.train()
        text, image, fused = self._head(
            self._text[rows], self._image[rows], self._has_text[rows], self._has_image[rows]
        )
        query, item = place[:, 0], place[:, 1]
        loss = self.loss(
            (image if config.query == "image" else fused)[query],
            fused[item],
            text[item],
            image[item],
            pairs[:, 1],
            query_keys=pairs[:, 0],
            query_items=pairs[:, 0],
            text_present=self._has_text[pairs[:, 1]],
            image_present=self._has_image[pairs[:, 1]],
        )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
