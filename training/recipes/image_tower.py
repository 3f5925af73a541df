"""A small image tower trained on the pictures at hand: MIM's pre-training in small (section 3.2).

DMA aligns a picture with its item's text by a symmetric InfoNCE (M2), the text tower staying frozen.
DDA keeps two views of one picture together (SimCLR, M1), which needs no text at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.images import ImagePreprocessing
from contracts.items import Item
from training.item_features import Features, Rows, Step, decode_rows
from training.losses import InfoNce
from training.models.encoders import ConvNext
from training.seeded import seeded

PREPROCESSING = ImagePreprocessing(64, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DECODED_AT_ONCE = 64
_MIN_PICTURES = 16  # below, there is nothing to contrast
_SMALLEST_CROP = 0.75  # of a side


@dataclass(frozen=True)
class ImageTowerConfig:
    """samples: pictures seen in all, however many there are; pictures: kept in memory, drawn by seed.

    dda_weight: of the views' loss beside the texts'; 0 leaves it out and halves the time. Where most
    pictures have no text it is at least 1.
    """

    samples: int = 20_000
    pictures: int = 20_000
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    joint_dim: int = 128
    dda_weight: float = 0.0


@dataclass(frozen=True)
class ImageTowerReport:
    """dma, dda: mean loss over the last tenth of the steps."""

    pictures: int
    steps: int
    dma: float
    dda: float
    seconds: float


def train_image_tower(
    items: Sequence[Item],
    rows: Rows,
    text: Features,
    config: ImageTowerConfig,
    *,
    seed: int,
    threads: int,
    progress: Step,
) -> tuple[ConvNext, ImageTowerReport]:
    """A ConvNext for pictures prepared by PREPROCESSING. rows: of items that it may see.

    With fewer than 16 readable pictures the tower stays as it was drawn (steps = 0).
    """
    started = time.perf_counter()
    kept = np.random.default_rng(seed).permutation(rows)[: config.pictures]
    pictures, owners = _decode(items, np.sort(kept))
    steps = -(-config.samples // config.batch) if len(owners) >= _MIN_PICTURES else 0
    dma, dda = np.zeros(steps), np.zeros(steps)
    with seeded(seed, threads):
        step = _Training(text, pictures, owners, config, steps, seed)
        for number in range(steps):
            dma[number], dda[number] = step(number)
            progress(number + 1, steps)
    last = max(1, steps // 10)
    tower = step.tower.eval().requires_grad_(False)
    return tower, ImageTowerReport(
        pictures=len(owners),
        steps=steps,
        dma=float(dma[-last:].mean()) if steps else 0.0,
        dda=float(dda[-last:].mean()) if steps else 0.0,
        seconds=time.perf_counter() - started,
    )


def _decode(items: Sequence[Item], rows: Rows) -> tuple[npt.NDArray[np.uint8], Rows]:
    """(R, 3, H, W) uint8, a quarter of the floats' memory and exact, and their rows (R,)."""
    parts, owners = [], []
    for start in range(0, len(rows), _DECODED_AT_ONCE):
        good, pixels = decode_rows(items, rows[start : start + _DECODED_AT_ONCE], PREPROCESSING)
        parts.append(np.rint((pixels * 0.5 + 0.5) * 255).astype(np.uint8))
        owners.append(good)
    if not parts:
        return np.zeros((0, 3, PREPROCESSING.height, PREPROCESSING.width), np.uint8), rows[:0]
    return np.concatenate(parts), np.concatenate(owners)


class _Training:
    """Everything that one step changes. Call with the step's number -> the losses (DMA, DDA)."""

    def __init__(
        self,
        text: Features,
        pictures: npt.NDArray[np.uint8],
        owners: Rows,
        config: ImageTowerConfig,
        steps: int,
        seed: int,
    ) -> None:
        self.tower = ConvNext().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._image_head = nn.Linear(self.tower.dim, config.joint_dim)
        self._view_head = nn.Linear(self.tower.dim, config.joint_dim)
        self._text_head = nn.Linear(text.values.shape[1], config.joint_dim)
        self._dma, self._dda = InfoNce(), InfoNce()
        self._pixels = torch.from_numpy(pictures)
        self._text = torch.from_numpy(text.values[owners])
        self._has_text = torch.from_numpy(text.present[owners])
        # Equal texts are one key: none is the other's negative.
        keys = np.unique(text.values[owners], axis=0, return_inverse=True)[1].reshape(-1)
        self._text_keys = torch.from_numpy(keys.astype(np.int64))
        mostly_told = len(owners) > 0 and bool(text.present[owners].mean() >= 0.5)
        self._dda_weight = config.dda_weight if mostly_told else max(1.0, config.dda_weight)
        self._order = _epochs(len(owners), config.batch, np.random.default_rng(seed))
        parts = (self.tower, self._image_head, self._view_head, self._text_head, self._dma, self._dda)
        parameters = [p for part in parts for p in part.parameters()]
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, config.learning_rate, total_steps=max(1, steps) + 1, pct_start=0.1
        )

    def __call__(self, number: int) -> tuple[float, float]:
        chosen = torch.from_numpy(self._order())
        pixels = self._pixels[chosen].float().div_(127.5).sub_(1.0)
        one = self.tower(_view(pixels))
        image, text = self._image_head(one), self._text_head(self._text[chosen])
        keys, there = self._text_keys[chosen], self._has_text[chosen]
        dma = 0.5 * (
            self._dma(image, text, keys, present=there) + self._dma(text, image, keys, present=there)
        )
        loss, dda = dma, torch.zeros(())
        if self._dda_weight > 0:
            other = self.tower(_view(pixels))
            dda = self._dda(self._view_head(one), self._view_head(other), chosen)
            loss = dma + self._dda_weight * dda
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        return float(dma.detach()), float(dda.detach())


def _epochs(count: int, batch: int, rng: np.random.Generator) -> Callable[[], Rows]:
    """Calls give batches of distinct numbers below `count`, every number once per round."""
    batch = min(batch, count)
    left = np.zeros(0, dtype=np.int64)

    def following() -> Rows:
        nonlocal left
        if len(left) < batch:
            left = rng.permutation(count).astype(np.int64)
        chosen, left = left[:batch], left[batch:]
        return chosen

    return following


def _view(pixels: Tensor) -> Tensor:
    """A random crop of each picture, half of them mirrored: (K, 3, H, W) -> the same shape."""
    count = len(pixels)
    scale = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * torch.rand(count, 2)
    shift = (2 * torch.rand(count, 2) - 1) * (1 - scale)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0] * mirror, scale[:, 1]
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    view = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return view.contiguous(memory_format=torch.channels_last)
