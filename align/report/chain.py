"""The chain of stages as a picture: boxes in a row (or, on a phone, a column), arrows for what reads what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from align.report.svg import GRID, INK, MUTED, PAPER, SERIES
from align.report.text import one_line

BOX_WIDTH, BOX_HEIGHT, GAP, LANE = 168, 66, 40, 22


@dataclass(frozen=True)
class Box:
    """One box: a title, two small lines, and the titles of the boxes that it reads."""

    title: str
    lines: tuple[str, str]
    inputs: tuple[str, ...]
    fresh: bool = True


def chain(boxes: Sequence[Box], *, upright: bool = False) -> str:
    """Inline SVG of the chain.

    Neighbours are joined by straight arrows; an arrow that skips boxes goes around them.

    Args:
        boxes: In an order in which each box follows what it reads.
        upright: From top to bottom rather than from left to right.
    """
    places = {box.title: i for i, box in enumerate(boxes)}
    edges = [
        (places[name], i) for i, box in enumerate(boxes) for name in box.inputs if places.get(name, i) < i
    ]
    farthest = max([end - start for start, end in edges], default=1)
    room = LANE * farthest if farthest > 1 else 4
    drawn = _upright(boxes, edges, room) if upright else _lying(boxes, edges, room)
    names = one_line(", ".join(box.title for box in boxes))
    width, height, inner = drawn
    css = "plot upright" if upright else "plot lying"
    return (
        f'<svg class="{css}" role="img" aria-label="{escape(f"The chain of stages: {names}")}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{inner}</svg>'
    )


def _lying(boxes: Sequence[Box], edges: Sequence[tuple[int, int]], room: int) -> tuple[int, int, str]:
    pitch, middle = BOX_WIDTH + GAP, room + BOX_HEIGHT / 2
    parts = []
    for start, end in edges:
        if end == start + 1:
            parts.append(
                _arrow(
                    f"M{start * pitch + BOX_WIDTH} {middle}H{end * pitch - 6}", end * pitch, middle, "right"
                )
            )
            continue
        # Arrows leave right of the box's middle and arrive left of it, so that none lies on another.
        left, right = start * pitch + 0.7 * BOX_WIDTH, end * pitch + _spread(edges, start, end) * BOX_WIDTH
        top = room - LANE * (end - start) + 6
        curve = f"M{left:g} {room}C{left:g} {top} {right:g} {top} {right:g} {room - 6}"
        parts.append(_arrow(curve, right, room, "down"))
    parts += [_box(box, i * pitch, room) for i, box in enumerate(boxes)]
    return len(boxes) * pitch - GAP, room + BOX_HEIGHT + 2, "".join(parts)


def _upright(boxes: Sequence[Box], edges: Sequence[tuple[int, int]], room: int) -> tuple[int, int, str]:
    pitch, middle = BOX_HEIGHT + 30, 1 + BOX_WIDTH / 2
    side = 1 + BOX_WIDTH
    parts = []
    for start, end in edges:
        if end == start + 1:
            parts.append(
                _arrow(
                    f"M{middle} {start * pitch + BOX_HEIGHT}V{end * pitch - 6}", middle, end * pitch, "down"
                )
            )
            continue
        top, bottom = start * pitch + 0.7 * BOX_HEIGHT, end * pitch + _spread(edges, start, end) * BOX_HEIGHT
        out = side + 1.3 * LANE * (end - start)
        curve = f"M{side} {top:g}C{out:g} {top:g} {out:g} {bottom:g} {side + 6} {bottom:g}"
        parts.append(_arrow(curve, side, bottom, "left"))
    parts += [_box(box, 1, i * pitch) for i, box in enumerate(boxes)]
    return side + int(1.3 * room), len(boxes) * pitch - 30 + 2, "".join(parts)


def _spread(edges: Sequence[tuple[int, int]], start: int, end: int) -> float:
    """Where on the target's side an arrow arrives, as a part of it: the nearest source arrives last."""
    sources = sorted((s for s, e in edges if e == end and e - s > 1), reverse=True)
    return 0.5 - 0.14 * sources.index(start)


def _arrow(path: str, x: float, y: float, heading: str) -> str:
    tips = {
        "right": f"M{x - 7:g} {y - 4:g}L{x:g} {y:g}L{x - 7:g} {y + 4:g}z",
        "down": f"M{x - 4:g} {y - 7:g}L{x:g} {y:g}L{x + 4:g} {y - 7:g}z",
        "left": f"M{x + 7:g} {y - 4:g}L{x:g} {y:g}L{x + 7:g} {y + 4:g}z",
    }
    return (
        f'<path d="{path}" fill="none" stroke="{MUTED}" stroke-width="1.3"/>'
        f'<path d="{tips[heading]}" fill="{MUTED}" stroke="none"/>'
    )


def _box(box: Box, x: float, y: float) -> str:
    edge, width = (SERIES[0], "1.6") if box.fresh else (GRID, "1.4")
    texts = [
        (box.title, 15, 22, INK, ' font-weight="600"'),
        (box.lines[0], 11, 40, MUTED, ""),
        (box.lines[1], 11, 56, MUTED, ""),
    ]
    spelled = "".join(
        f'<text x="{x + 12:g}" y="{y + down:g}" font-size="{size}" fill="{colour}"{weight}>'
        f"{escape(_fit(text))}</text>"
        for text, size, down, colour, weight in texts
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{PAPER}" '
        f'stroke="{edge}" stroke-width="{width}"/>{spelled}'
    )


def _fit(text: str, limit: int = 24) -> str:
    text = one_line(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
