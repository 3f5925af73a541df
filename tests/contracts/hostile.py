"""Ids, column values and other things that have broken such services before."""

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

# Values of a column that can be used although they look odd.
ODD_COLUMNS: tuple[Any, ...] = (
    0,
    -0.0,
    3.4e38,
    5e-324,
    2**63 - 1,
    -(2**63),
    "",
    "|",
    "{x}",
    "nan",
    "x" * 10_000,
    [],
    ["", "{a}", "日本", "x" * 10_000],
    ("a", "b"),
)

# Values of a column that can not.
BAD_COLUMNS: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    1e308,
    -3.5e38,
    10**400,
    2**63,
    -(2**63) - 1,
    True,
    None,
    b"bytes",
    "x" * 20_001,
    "\ud800",
    ["a", 1],
    ["a", None],
    [["a"]],
    ["a"] * 257,
    {"a": 1},
    1j,
)
