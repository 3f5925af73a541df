"""The page of `repcenter explain`: one HTML file with its pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from contracts.explanation import Explanation
from contracts.scores import Scores

_PICTURE = (96, 128)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1c2733}
h1{font-size:1.3rem}h2{font-size:1.1rem;margin:0}h3{font-size:.85rem;margin:1rem 0 .3rem;color:#5a6b7b}
section{border-top:1px solid #d8e0e8;padding:1.2rem 0}header{display:flex;gap:1rem;align-items:center}
img,.none{width:72px;height:96px;object-fit:cover;border-radius:4px;background:#e8edf2;display:block}
.row{display:grid;grid-template-columns:13rem 4.5rem 1fr;gap:.6rem;align-items:center}
.bar{height:.7rem;border-radius:2px;background:#2e8b6f}.bar.minus{background:#c4513f}
.cards{display:flex;gap:.8rem;flex-wrap:wrap}.card{width:84px;font-size:.75rem;overflow-wrap:anywhere}
table{border-collapse:collapse}td{width:1.9rem;height:1.1rem;border:1px solid #eef2f6;padding:0}
.grids{display:flex;gap:2rem;flex-wrap:wrap}small{color:#5a6b7b}
"""


@dataclass(frozen=True)
class Shown:
    """titles, pictures (data URIs) by item id; items that are not known have none."""

    titles: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Path | None, explanations: Sequence[Explanation]) -> Shown:
        """Of a data directory's items that are explained or explain; nothing where data is None."""
        if data is None:
            return cls()
        from training.data.catalogue import load_catalogue

        catalogue = load_catalogue(data)
        wanted = {e.item_id for e in explanations}
        wanted |= {w.item_id for e in explanations for weighed in e.behaviours.values() for w in weighed}
        rows = {item_id: catalogue.row_of[item_id] for item_id in wanted if item_id in catalogue.row_of}
        items = {item_id: catalogue.item(row) for item_id, row in rows.items()}
        return cls(
            {item_id: item.text.get("title", "") for item_id, item in items.items()},
            {item_id: uri for item_id, item in items.items() if (uri := _picture(item.image)) is not None},
        )


def page(answer: Scores, explanations: Sequence[Explanation], shown: Shown) -> str:
    """The whole document. Every id and title is escaped."""
    sections = "".join(_section(e, shown) for e in explanations) or "<p>No candidate has a score.</p>"
    about = f"scene {answer.scene}, generation {answer.generation}, request {answer.request_id}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Why these scores</title><style>{_STYLE}</style></head><body>"
        f"<h1>Why these scores</h1><small>{escape(about)}</small>{sections}</body></html>\n"
    )


def _section(e: Explanation, shown: Shown) -> str:
    title = shown.titles.get(e.item_id, "")
    head = (
        f"<header>{_image(e.item_id, shown)}<div><h2>{escape(title or e.item_id)}</h2>"
        f"<small>{escape(e.item_id)}</small><br>"
        f"score <b>{e.score:.5f}</b>, logit {e.logit:+.3f}</div></header>"
    )
    most = max((abs(value) for value in e.contributions.values()), default=0.0)
    parts = "".join(
        f"<div class=row><span>{escape(name)}</span><span>{value:+.3f}</span>{_bar(value, most)}</div>"
        for name, value in e.contributions.items()
    )
    behaviours = "".join(
        f"<h3>{escape(name)}</h3><div class=cards>"
        + "".join(
            f"<div class=card>{_image(w.item_id, shown)}<b>{w.value:+.3f}</b> age {w.age}<br>"
            f"{escape(shown.titles.get(w.item_id) or w.item_id)}</div>"
            for w in weighed
        )
        + "</div>"
        for name, weighed in e.behaviours.items()
    )
    grids = "".join(
        f"<div><h3>{escape(name)}</h3>{_grid(grid)}</div>" for name, grid in e.distributions.items()
    )
    note = "<h3>logit less the logit without this part</h3>"
    return f"<section>{head}{note}{parts}{behaviours}<div class=grids>{grids}</div></section>"


def _bar(value: float, most: float) -> str:
    width = 100 * abs(value) / most if most else 0
    return f'<div class="bar{"" if value >= 0 else " minus"}" style="width:{width:.1f}%"></div>'


def _grid(grid: Sequence[Sequence[float]]) -> str:
    """Newest behaviours on top, most similar on the right."""
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td title="{share:.1%}" style="background:rgba(46,139,111,{share:.3f})"></td>' for share in row
        )
        + "</tr>"
        for row in grid
    )
    return f"<table>{rows}</table><small>newest on top, most similar on the right</small>"


def _image(item_id: str, shown: Shown) -> str:
    uri = shown.pictures.get(item_id)
    return "<div class=none></div>" if uri is None else f'<img alt="" src="{uri}">'


def _picture(image: bytes | None) -> str | None:
    """A small JPEG as a data URI; None where there is no picture or none that can be read."""
    if image is None:
        return None
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", _PICTURE)
            small = opened.convert("RGB")
        small.thumbnail(_PICTURE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
