"""What the pictures beside the boards share: SVGs, the same on every machine, with their ground, words and lines."""

from __future__ import annotations

import html
from collections.abc import Iterable

from benchmark.boards import HEADER

#: Lengths in pixels: of a picture, of a line of it, and of what names of rows take on the left.
WIDTH, LINE, NAMES = 980, 20, 196
#: A ground of its own: a page's theme may differ from the system's.
_STYLE = """
text { font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; fill: #1a212b }
.head { font-weight: 600 } .muted { fill: #566070 }
.ground { fill: #ffffff } .band { fill: #f3f5f8 } .rule { stroke: #ccd2db } .zero { stroke: #566070 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaf0 } .muted { fill: #a3aebd }
  .ground { fill: #11151b } .band { fill: #1a2029 } .rule { stroke: #343e4c } .zero { stroke: #a3aebd }
}
"""


def picture(title: str, height: float, style: str, drawn: Iterable[str]) -> str:
    """A whole SVG of ``height``: what is ``drawn`` on the ground under its ``title``, with a ``style`` of its own."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{html.escape(title)}</title>',
        f"<style>{_STYLE}{style.lstrip()}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        *words(8, 20, title, "head", anchor="start"),
        *drawn,
        "</svg>",
    ]
    return HEADER + "\n".join(lines) + "\n"


def lines_of(names: Iterable[str], top: float) -> list[str]:
    """A line for each of ``names``, from ``top`` downwards, every other one on a band."""
    drawn = []
    for i, name in enumerate(names):
        y = top + LINE * i
        if i % 2 == 0:
            drawn.append(f'<rect class="band" y="{y}" width="{WIDTH}" height="{LINE}"/>')
        drawn += words(NAMES - 8, y + 14, name, anchor="end")
    return drawn


def rule(x: float, top: float, bottom: float, kind: str = "rule") -> str:
    """An upright line."""
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'


def words(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> list[str]:
    """A line of text."""
    return [f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>']
