"""The drawn world's items: what is true of them, and the words that say a part of it.

Colour, shape and pattern are only seen, material and style only read; the category is both (the
backdrop of the picture, the noun of the title). Quality is neither: only an ID can learn it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NOUNS = {
    "lighting": ("table lamp", "floor lamp", "pendant lamp", "lantern"),
    "seating": ("chair", "stool", "bench", "armchair"),
    "storage": ("shelf", "chest", "basket", "cabinet"),
    "tableware": ("bowl", "mug", "plate", "jug"),
    "textiles": ("rug", "cushion", "throw", "curtain"),
    "clocks": ("wall clock", "mantel clock", "alarm clock", "hourglass"),
    "garden": ("planter", "bird bath", "trellis", "watering can"),
    "travel": ("satchel", "suitcase", "rucksack", "purse"),
}
CATEGORIES = tuple(NOUNS)
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "brown")
SHAPES = ("disc", "square", "triangle", "star", "ring", "cross")
PATTERNS = ("plain", "stripes", "dots", "checks", "rings")
MATERIALS = ("oak", "walnut", "steel", "brass", "linen", "leather", "ceramic", "bamboo")
STYLES = {
    "rustic": ("weathered", "homely", "rough-hewn"),
    "minimal": ("spare", "uncluttered", "plain-lined"),
    "baroque": ("ornate", "gilded", "lavish"),
    "industrial": ("riveted", "raw", "workshop-born"),
    "nautical": ("sea-worn", "roped", "harbour-inspired"),
    "retro": ("mid-century", "nostalgic", "diner-bright"),
    "futuristic": ("streamlined", "space-age", "gleaming"),
    "pastoral": ("meadow-soft", "floral", "countryside"),
}
ROOMS = ("kitchen", "hall", "bedroom", "study", "terrace", "bathroom")
_SYLLABLES = ("ba", "do", "fe", "ga", "li", "mo", "nu", "ri", "sa", "ve")
_MAKERS = 24
_MAX_ROOMS = 3

# what the affinity is made of: the share of its variance that each group of columns has
GROUPS = {
    "colour": (len(COLOURS), 0.20),
    "shape": (len(SHAPES), 0.13),
    "pattern": (len(PATTERNS), 0.12),
    "material": (len(MATERIALS), 0.18),
    "style": (len(STYLES), 0.17),
    "category": (len(CATEGORIES), 0.10),
    "rooms": (len(ROOMS), 0.06),
    "price": (1, 0.04),
}

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WorldItems:
    """The truth about I items: each array of numbers (I,) indexes the tuple of its name."""

    category: Numbers
    colour: Numbers
    shape: Numbers
    pattern: Numbers
    material: Numbers
    style: Numbers
    rooms: npt.NDArray[np.bool_]  # (I, ROOMS), one to three each
    maker: Numbers
    price: npt.NDArray[np.float64]  # (I,)
    quality: npt.NDArray[np.float64]  # (I,) on the logit, shown nowhere

    def __len__(self) -> int:
        return len(self.category)

    def features(self) -> npt.NDArray[np.float64]:
        """(I, V): the columns that tastes weigh, GROUPS side by side, each centred over the items."""
        level = np.log(self.price)
        groups = {
            "colour": np.eye(len(COLOURS))[self.colour],
            "shape": np.eye(len(SHAPES))[self.shape],
            "pattern": np.eye(len(PATTERNS))[self.pattern],
            "material": np.eye(len(MATERIALS))[self.material],
            "style": np.eye(len(STYLES))[self.style],
            "category": np.eye(len(CATEGORIES))[self.category],
            "rooms": self.rooms / np.sqrt(self.rooms.sum(axis=1, keepdims=True)),
            "price": ((level - level.mean()) / level.std())[:, None],
        }
        columns = np.concatenate([groups[name] for name in GROUPS], axis=1)
        return np.asarray(columns - columns.mean(axis=0))

    def titles(self, rng: np.random.Generator) -> list[str]:
        """(I,) such as `Rustic oak table lamp Velisa`."""
        styles, names = tuple(STYLES), rng.integers(len(_SYLLABLES), size=(len(self), 3))
        noun = rng.integers(len(NOUNS[CATEGORIES[0]]), size=len(self))
        return [
            f"{styles[s].capitalize()} {MATERIALS[m]} {NOUNS[CATEGORIES[c]][n]} "
            + "".join(_SYLLABLES[k] for k in name).capitalize()
            for s, m, c, n, name in zip(self.style, self.material, self.category, noun, names, strict=True)
        ]

    def descriptions(self, rng: np.random.Generator) -> list[str]:
        """(I,) a sentence or two that say style and material in other words."""
        moods, word = tuple(STYLES.values()), rng.integers(3, size=len(self))
        width, weight = rng.integers(12, 180, size=len(self)), rng.integers(2, 90, size=len(self))
        rooms = [" and ".join(ROOMS[k] for k in np.flatnonzero(row)) for row in self.rooms]
        return [
            f"A {moods[s][w]} piece for the {room}, made of {MATERIALS[m]} by {maker_name(k)}. "
            f"It is {wide} cm wide and weighs {heavy / 10:.1f} kg."
            for s, w, room, m, k, wide, heavy in zip(
                self.style, word, rooms, self.material, self.maker, width, weight, strict=True
            )
        ]


def maker_name(number: int) -> str:
    """The name of a maker."""
    first, second = divmod(int(number), len(_SYLLABLES))
    return f"{_SYLLABLES[first]}{_SYLLABLES[second]}nor".capitalize()


def draw_items(count: int, rng: np.random.Generator) -> WorldItems:
    """`count` items, every trait drawn on its own."""
    material, category = rng.integers(len(MATERIALS), size=count), rng.integers(len(CATEGORIES), size=count)
    ranked = rng.random((count, len(ROOMS))).argsort(axis=1).argsort(axis=1)
    level = 3.2 + 0.12 * material + 0.08 * category + rng.normal(0, 0.5, count)
    return WorldItems(
        category=category,
        colour=rng.integers(len(COLOURS), size=count),
        shape=rng.integers(len(SHAPES), size=count),
        pattern=rng.integers(len(PATTERNS), size=count),
        material=material,
        style=rng.integers(len(STYLES), size=count),
        rooms=ranked < rng.integers(1, _MAX_ROOMS + 1, size=(count, 1)),
        maker=rng.integers(_MAKERS, size=count),
        price=np.asarray(np.round(np.exp(level), 2), dtype=np.float64),
        quality=rng.normal(0, 0.5, count),
    )
