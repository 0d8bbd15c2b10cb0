"""Pieces of HTML that every card is made of: legible on a light and on a dark page, without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MAX_LINES: Final = 20
_TEXT: Final = 160

# Colours are the page's own, or between light and dark.
_STYLE: Final = """
.daskmoe-card{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:75em;overflow-x:auto}
.daskmoe-card+.daskmoe-card{margin-top:1em}
.daskmoe-card h4{margin:0 0 .5em;font-size:1.15em}
.daskmoe-card table{border-collapse:collapse;margin:.4em 0 .9em;color:inherit;background:none;font:inherit}
.daskmoe-card caption{caption-side:top;text-align:left;font-weight:600;padding:0;color:inherit}
.daskmoe-card th,.daskmoe-card td{padding:.15em .7em;white-space:nowrap;text-align:right;border:0;
background:none;border-bottom:1px solid rgba(128,128,128,.3);font-variant-numeric:tabular-nums;color:inherit}
.daskmoe-card th{font-weight:600}
.daskmoe-card th:first-child,.daskmoe-card .t{text-align:left}
.daskmoe-card .facts th{opacity:.7;font-weight:400;vertical-align:top}
.daskmoe-card .facts td{text-align:left;white-space:normal}
.daskmoe-card small{opacity:.7}
.daskmoe-card summary{cursor:pointer;padding:.15em 0}
.daskmoe-card .bar{display:inline-block;height:.7em;margin-right:.4em;background:#3b8bc9;border-radius:2px}
"""


def card_of(heading: str, *parts: str) -> str:
    """A card of a heading, which is text, and of parts, which are HTML."""
    top = f"<style>{_STYLE}</style><h4>{html.escape(heading)}</h4>"
    return f'<div class="daskmoe-card">{top}{"".join(parts)}</div>'


def rows_of_facts(found: Mapping[str, str], most: int = MAX_LINES) -> str:
    """Names and what is said of them, a line each."""
    lines = [
        f"<tr><th>{html.escape(short(name))}</th><td>{html.escape(short(text, 2 * _TEXT))}</td></tr>"
        for name, text in list(found.items())[:most]
    ]
    if (more := len(found) - most) > 0:
        lines.append(f"<tr><td colspan=2>... and {more} more: see .table()</td></tr>")
    return f'<table class="facts">{"".join(lines)}</table>'


def table_of(caption: str, heads: Iterable[str], lines: Iterable[Sequence[str]], more: str = "") -> str:
    """Cells are HTML already, the caption and what is left out are not."""
    top = f"<caption>{html.escape(short(caption))}</caption>" if caption else ""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join(
        f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for first, *cells in lines
    )
    note = f"<div><small>... and {html.escape(more)}: see .table()</small></div>" if more else ""
    return f"<table>{top}<tr>{head}</tr>{body}</table>{note}"


def folded(heading: str, inside: str) -> str:
    """What opens on a click."""
    return f"<details><summary>{html.escape(heading)}</summary>{inside}</details>"


def short(text: str, length: int = _TEXT) -> str:
    """The text, or its beginning."""
    return text if len(text) <= length else f"{text[: length - 4]} ..."
