"""Drawings of graphs as SVG, for the pages on what a trace is and on the graph of each family.

Command: ``python -m docs.sitebuild.drawings`` writes docs/graph.svg (three tokens), docs/graph-layers.svg (three forms
of a layer) and docs/graph-window.svg (a sliding window); a test compares them with what it would write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
INK, PAPER, QUIET = "#1b1b1b", "#ffffff", "#c9c9c9"
RESIDUAL, ATTENTION, MLP = "#6b6b6b", "#0072b2", "#b34700"


def text(x: float, y: float, words: str, color: str = INK, anchor: str = "middle", size: int | None = None) -> str:
    """Words at a place; ``anchor`` is start, middle or end."""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    large = "" if size is None else f' font-size="{size}"'
    return f'<text x="{x:g}" y="{y:g}"{where}{large} fill="{color}">{words}</text>'


def line(x: float, y: float, to_x: float, to_y: float, color: str, width: float = 2.2) -> str:
    """A straight edge."""
    return f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{color}" stroke-width="{width:g}"/>'


def curve(path: str, color: str, width: float = 2.2, dashes: str = "") -> str:
    """An edge along a path."""
    broken = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{broken}/>'


def node(x: float, y: float, fill: str = PAPER, edge: str = INK) -> str:
    """A state of the residual stream."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="8" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>'


def box(x: float, y: float, lines: Sequence[str], color: str, width: float = 86) -> str:
    """A function inside an edge, its middle at (x, y)."""
    height = 20 * len(lines) + 8
    frame = (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height}" rx="4" fill="{PAPER}" '
        f'stroke="{color}" stroke-width="1.5"/>'
    )
    first = y - height / 2 + 20
    return "\n".join([frame, *(text(x, first + 20 * row, words, color, size=17) for row, words in enumerate(lines))])


def mask(x: float, y: float, color: str) -> str:
    """Where an edge's mask multiplies."""
    return (
        f'<rect x="{x - 8:g}" y="{y - 8:g}" width="16" height="16" fill="{color}"/>\n'
        f"{text(x, y + 4.5, 'm', PAPER, size=12)}"
    )


def picture(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    """A whole file; ``label`` is what it is called by programs that read aloud."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13" role="img" aria-label="{label}">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="{PAPER}"/>', *parts, "</svg>\n"])


def three_tokens() -> str:
    """Three tokens and one layer."""
    across, up, parts = (110, 280, 450), (250, 150, 50), []
    for x in across:
        parts += [line(x, up[0] - 9, x, up[1] + 9, RESIDUAL), line(x, up[1] - 9, x, up[2] + 9, RESIDUAL)]
        parts.append(curve(f"M{x + 9} 146C{x + 42} 120 {x + 42} 80 {x + 9} 54", MLP))
    for source, target in ((0, 1), (0, 2), (1, 2)):
        x, to = across[source] + 8, across[target] - 6
        parts.append(curve(f"M{x} 245Q{to - 14} 240 {to} 158", ATTENTION, 1.6))
    parts += [node(x, y, INK if (x, y) == (across[-1], up[-1]) else PAPER) for x in across for y in up]
    parts += [text(x, 280, word) for x, word in zip(across, ("The", "capital", "of"), strict=True)]
    parts += [text(450, 32, "prediction"), text(96, 204, "residual", RESIDUAL, "end")]
    parts += [text(362, 205, "attention", ATTENTION), text(490, 104, "MLP", MLP, "start")]
    return picture(560, 300, "Three tokens, one layer: residual, attention and MLP edges", parts)


def norms_before(x: float) -> list[str]:
    """A layer of Llama: a norm before each sub-layer."""
    return _two_sublayers(x, ["W_O", "W_V", "norm"], [], ["MLP", "norm"])


def norms_after(x: float) -> list[str]:
    """A layer of OLMo-2: a norm after each sub-layer, that of attention around the sum of its edges."""
    return _two_sublayers(x, ["W_O", "W_V"], ["norm", "sum"], ["norm", "MLP"])


def _two_sublayers(x: float, value: list[str], after: list[str], mlp: list[str]) -> list[str]:
    """Levels 2l, 2l + 1 and 2l + 2; ``after`` is what stands between attention's edges and the node."""
    stream, head, low, middle, high = x + 78, x + 190, 440, 200, 50
    parts = [line(stream, low - 9, stream, middle + 9, RESIDUAL), line(stream, middle - 9, stream, high + 9, RESIDUAL)]
    parts += [
        line(head, low - 9, head, 250, ATTENTION),
        curve(f"M{head} 250Q{head} 205 {stream + 9} {middle}", ATTENTION),
    ]
    parts += [*_probability(stream, head, low), box(head, 386 - 10 * (3 - len(value)), value, ATTENTION, 70)]
    parts += [mask(head, 276 if not after else 300, ATTENTION)]
    parts += [box(head, 258, after, ATTENTION, 70)] if after else []
    parts += [curve(f"M{stream + 9} {middle - 4}C{head} 178 {head} 72 {stream + 9} {high + 4}", MLP)]
    parts += [box(head - 26, 128, mlp, MLP, 70), mask(stream + 46, 70, MLP)]
    parts += [mask(stream, 300, RESIDUAL), mask(stream, 110, RESIDUAL)]
    parts += [node(stream, y) for y in (low, middle, high)] + [node(head, low)]
    parts += [text(stream, low + 30, "2l, i", size=17), text(head, low + 30, "2l, j", size=17)]
    parts += [text(stream - 14, middle + 6, "2l+1, i", INK, "end", 17), text(stream, high - 16, "2l+2, i", size=17)]
    return parts


def parallel(x: float) -> list[str]:
    """A layer of GPT-NeoX: attention and MLP read the same state."""
    stream, head, low, high = x + 112, x + 200, 440, 90
    parts = [line(stream, low - 9, stream, high + 9, RESIDUAL)]
    parts += [
        line(head, low - 9, head, 200, ATTENTION),
        curve(f"M{head} 200Q{head} 110 {stream + 9} {high}", ATTENTION),
    ]
    parts += [*_probability(stream, head, low), box(head, 386, ["W_O", "W_V", "norm"], ATTENTION, 70)]
    parts += [curve(f"M{stream - 8} {low - 4}C{x + 14} 390 {x + 14} 130 {stream - 8} {high + 4}", MLP)]
    parts += [box(x + 40, 290, ["MLP", "norm"], MLP, 66), mask(x + 58, 170, MLP)]
    parts += [mask(stream, 170, RESIDUAL), mask(head - 9, 150, ATTENTION)]
    parts += [node(stream, low), node(stream, high), node(head, low)]
    parts += [text(stream, low + 30, "l, i", size=17), text(head, low + 30, "l, j", size=17)]
    parts += [
        text(stream, high - 16, "l+1, i", size=17),
        text(stream + 36, high + 2, "+ output bias", INK, "start", 15),
    ]
    return parts


def _probability(stream: float, head: float, low: float) -> list[str]:
    """Attention's probability, made of both states, on the edge of one source; no edge itself."""
    from_target = curve(f"M{stream + 7} {low - 6}L{head - 22} 332", QUIET, 1.5, "4 3")
    from_source = curve(f"M{head + 7} {low - 6}C{head + 56} 400 {head + 56} 360 {head + 22} 333", QUIET, 1.5, "4 3")
    return [from_target, from_source, box(head, 328, ["× A"], ATTENTION, 42)]


def layers() -> str:
    """Three forms of a layer, for one target, head and source; boxes are read upwards, as edges go."""
    panels: tuple[tuple[str, Callable[[float], list[str]]], ...] = (
        ("norms before (Llama)", norms_before),
        ("norms after (OLMo-2)", norms_after),
        ("parallel (GPT-NeoX)", parallel),
    )
    parts = []
    for index, (title, panel) in enumerate(panels):
        parts += [text(260 * index + 130, 508, title, size=17), *panel(260 * index)]
    return picture(
        780, 524, "One layer with norms before its sub-layers, with norms after them, and in parallel", parts
    )


def window() -> str:
    """Which nodes are in the graph of three layers with windows of three tokens, for eight tokens."""
    tokens, width, n_layers, parts = 8, 3, 3, []
    for layer in range(n_layers + 1):
        y, reach = 40 + 60 * (n_layers - layer), (n_layers - layer) * (width - 1)
        for token in range(tokens):
            there = token >= tokens - 1 - reach
            x = 100 + 52 * token
            parts.append(node(x, y, INK if there and layer == n_layers else PAPER, INK if there else QUIET))
            if there and layer < n_layers:
                seen = range(token, min(token + width, tokens))
                into = [to for to in seen if to >= tokens - 1 - reach + width - 1]
                colors = {to: RESIDUAL if to == token else ATTENTION for to in into}
                parts += [line(x, y - 9, 100 + 52 * to, y - 51, color, 1.6) for to, color in colors.items()]
        levels = f"levels {2 * layer - 1}, {2 * layer}" if layer else "level 0"
        parts.append(text(72, y + 5, levels, INK, "end"))
    parts += [text(100 + 52 * token, 252, str(token)) for token in range(tokens)]
    parts.append(text(72, 252, "token", INK, "end"))
    return picture(
        500, 268, "Three layers with windows of three tokens: the graph widens downwards by two tokens", parts
    )


DRAWINGS: dict[str, Callable[[], str]] = {
    "graph.svg": three_tokens,
    "graph-layers.svg": layers,
    "graph-window.svg": window,
}


if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (DOCS / name).write_text(draw(), encoding="utf-8")
