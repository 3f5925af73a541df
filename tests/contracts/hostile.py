"""Ids and values that have broken such services before."""

from __future__ import annotations

from typing import Any

# Strings that are usable ids although they look odd.
ODD_IDS: tuple[str, ...] = (
    "a",
    "{tag}",
    "}{",
    "a:b:c",
    "a\0b",
    "\0",
    " ",
    "\n",
    "🎬",
    "日本語",
    "é" * 128,
    "x" * 256,
    "*",
    "../../etc/passwd",
    "'; DROP TABLE items; --",
    "%00",
    "\u202e",
    "\ufeff",
)

# Values that are no ids.
BAD_IDS: tuple[Any, ...] = (
    "",
    "x" * 257,
    "é" * 129,
    "🎬" * 65,
    "\ud800",
    "a\udfffb",
    0,
    7,
    -1,
    1.5,
    float("nan"),
    None,
    True,
    b"bytes",
    ["a"],
    {"id": "a"},
)
