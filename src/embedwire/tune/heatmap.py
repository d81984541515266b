"""A sweep as a picture: an SVG that reads on light and dark pages, and for those who see colours otherwise. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from embedwire.tune.choosing import best, middle
from embedwire.tune.records import Cell, Outcome, words
from embedwire.tune.report import number

WIDE, HIGH = 68, 40  # of a cell
LEFT, TOP, RIGHT, BOTTOM = 84, 132, 24, 62
LEAST = 560  # of the whole width, for the title
GAP = 2
CHARACTER = 7.1  # of the small letters, about
HALF = 0.179  # from this lightness on, black is read better than white
LONGEST = 120  # characters of a title
# Viridis, which grows evenly in lightness, without its darkest part: it has to be seen on dark pages.
COLOURS = (
    (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140),
    (40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37),
)  # fmt: skip
STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 15px; fill: #1c2530 }
  .title { font-size: 17px; font-weight: 700 }
  .small { font-size: 13px }
  .page { fill: #ffffff }
  .none { fill: #eef1f4; stroke: #d3d9df }
  .best { fill: none; stroke: #1c2530; stroke-width: 3 }
  .inner { fill: none; stroke: #ffffff; stroke-width: 2 }
  .on-dark { fill: #ffffff }
  .on-light { fill: #000000 }
  .faint { fill: #56626e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6ebf0 }
    .page { fill: #12171d }
    .none { fill: #1d252d; stroke: #36424d }
    .best { stroke: #ffffff }
    .inner { stroke: #000000 }
    .on-dark { fill: #ffffff }
    .on-light { fill: #000000 }
    .faint { fill: #a3b0bc }
  }
"""


def svg(outcome: Outcome) -> str:
    """The map: texts in a request by requests in flight; the brighter, the faster, and each with its number."""
    grid = outcome.grid
    title, lines = _title(outcome), list(_subtitle(outcome))
    width = max(LEAST, LEFT + WIDE * len(grid.requests) + RIGHT)
    wide = max(len(line) for line in (*lines, title)) * CHARACTER + 2 * RIGHT
    width = int(max(width, wide))
    height = TOP + HIGH * len(grid.batches) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{_attribute(title)}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text class="title" x="{RIGHT}" y="30">{escape(title)}</text>',
    ]
    parts += [
        f'<text class="small faint" x="{RIGHT}" y="{52 + 18 * line}">{escape(text)}</text>'
        for line, text in enumerate(lines)
    ]
    return "\n".join([*parts, *_axes(outcome), *_cells(outcome), "</svg>", ""])


def _title(outcome: Outcome) -> str:
    info = outcome.info
    known = [] if info is None else [info.software, info.model]
    said = ", ".join(one for one in known if one) or outcome.url
    return f"Texts per second: {_short(said)}"


def _subtitle(outcome: Outcome) -> Iterator[str]:
    taken, found = outcome.taken, best(outcome.taken)
    texts = outcome.texts
    yield _short(f"{texts.source}, {texts.characters:,.0f} characters on average")
    if found is None or not outcome.complete:
        return
    said = f"best: {words(found.cell)}, {number(middle(taken.cells[found.cell]))}/s"
    if taken.automatic:
        said += f"; automatic sizes: {number(middle(taken.automatic))}/s"
    yield said


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _axes(outcome: Outcome) -> Iterator[str]:
    grid = outcome.grid
    middle_x = LEFT + WIDE * len(grid.requests) / 2
    middle_y = TOP + HIGH * len(grid.batches) / 2
    yield f'<text x="{middle_x:g}" y="{TOP - 30}" text-anchor="middle">requests in flight</text>'
    yield (
        f'<text x="28" y="{middle_y:g}" text-anchor="middle" transform="rotate(-90 28 {middle_y:g})">'
        "texts in a request</text>"
    )
    for column, size in enumerate(grid.requests):
        x = LEFT + WIDE * (column + 0.5)
        yield f'<text class="faint" x="{x:g}" y="{TOP - 9}" text-anchor="middle">{size}</text>'
    for row, size in enumerate(grid.batches):
        yield (
            f'<text class="faint" x="{LEFT - 10}" y="{TOP + HIGH * (row + 0.5) + 5:g}" text-anchor="end">{size}</text>'
        )
    below = TOP + HIGH * len(grid.batches)
    yield (
        f'<text class="small faint" x="{RIGHT}" y="{below + 26}">framed: the best · -: not tried · ✕: refused, or too '
        "slow</text>"
    )
    yield f'<text class="small faint" x="{RIGHT}" y="{below + 46}">the brighter, the faster</text>'


def _cells(outcome: Outcome) -> Iterator[str]:
    grid, found = outcome.grid, best(outcome.taken)
    framed = found.cell if found is not None and outcome.complete else None
    frame = ""
    for row, batch in enumerate(grid.batches):
        for column, requests in enumerate(grid.requests):
            cell = Cell(batch, requests)
            x, y = LEFT + WIDE * column, TOP + HIGH * row
            yield from _cell(outcome, cell, x, y)
            if cell == framed:
                frame = (
                    f'<rect class="best" x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="4"/>'
                    f'<rect class="inner" x="{x + 3}" y="{y + 3}" width="{WIDE - 6}" height="{HIGH - 6}" rx="2"/>'
                )
    yield frame


def _cell(outcome: Outcome, cell: Cell, x: int, y: int) -> Iterator[str]:
    taken = outcome.taken
    box = f'x="{x + GAP}" y="{y + GAP}" width="{WIDE - 2 * GAP}" height="{HIGH - 2 * GAP}" rx="3"'
    place = f'x="{x + WIDE / 2:g}" y="{y + HIGH / 2 + 5:g}" text-anchor="middle"'
    samples = taken.cells.get(cell)
    if not samples:
        ended = taken.ends.get(cell)
        why = "not tried" if ended is None else ended.what
        mark = "-" if ended is None or ended.reason == "cap" else "✕"
        yield f'<g><title>{escape(f"{words(cell)}: {why}")}</title><rect class="none" {box}/>'
        yield f'<text class="faint" {place}>{mark}</text></g>'
        return
    rate = middle(samples)
    most = max(middle(one) for one in taken.cells.values())
    colour = colour_of(rate / most)
    ink = "on-light" if lightness(colour) > HALF else "on-dark"
    spread = f"{min(one.rate for one in samples):.4g} to {max(one.rate for one in samples):.4g}"
    told = f"{words(cell)}: {rate:.4g} texts/s ({spread}, {len(samples)} times)"
    yield f'<g><title>{escape(told)}</title><rect fill="rgb{colour}" {box}/>'
    yield f'<text class="{ink}" {place}>{number(rate)}</text></g>'


def colour_of(part: float) -> tuple[int, int, int]:
    """The colour for a part of the highest rate."""
    place = max(0.0, min(1.0, part)) * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    one, other = COLOURS[low], COLOURS[low + 1]
    red, green, blue = (round(a + (b - a) * (place - low)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def lightness(colour: tuple[int, int, int]) -> float:
    """Relative luminance, as WCAG has it: 0 to 1."""
    parts = [value / 255 for value in colour]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
