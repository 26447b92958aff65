"""Draw a recording of ``make demo`` as an SVG, for light and dark backgrounds.

    python -m hack.picture out/demo.jsonl docs/rollout.svg

Nothing is smoothed or interpolated: where the recording has no value, there is a gap.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from hack.recording import Mark, Recording, Sample, read

WIDTH, LEFT, RIGHT = 960, 56, 24
TITLE, GAP, ROW = 34, 40, 15
"""Heights in pixels: the title, the space above a panel with its heading, and one row of labels."""
LETTER = 6.3
"""Average width of a letter in the labels, in pixels."""
DECISIVE = 1000
FLOOR = 0.1
"""Evidence against the candidate below this value is drawn at this value: the difference has no meaning."""
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.title { font-size: 16px; font-weight: 600; fill: #1f2328 } .head { font-weight: 600; fill: #1f2328 }
.back { fill: #ffffff; stroke: #d0d7de } .axis { stroke: #8c959f } .grid { stroke: #eaeef2 }
.mark { stroke: #8c959f; stroke-dasharray: 2 3 } .limit { stroke: #cf222e; stroke-dasharray: 5 4 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .even { fill: #eef1f4 } .odd { fill: #dfe4ea }
.c0 { fill: #8ba3bd } .c1 { fill: #2f81d6 } .c2 { fill: #e5832a } .c3 { fill: #8250df }
.failed { stroke: #cf222e } .fallbacks { stroke: #bf8700 } .evidence { stroke: #1f2328 } .dot { fill: #1f2328 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .title, .head { fill: #f0f6fc } .back { fill: #0d1117; stroke: #3d444d }
.axis { stroke: #656c76 } .grid { stroke: #21262d } .mark { stroke: #656c76 } .limit { stroke: #f85149 }
.even { fill: #1a2029 } .odd { fill: #272e38 }
.c0 { fill: #5f7790 } .c1 { fill: #4493f8 } .c2 { fill: #db8a3c } .c3 { fill: #a371f7 }
.failed { stroke: #f85149 } .fallbacks { stroke: #d29922 } .evidence { stroke: #f0f6fc } .dot { fill: #f0f6fc }
}"""

Point = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Panel:
    """A chart with its own axis. ``top`` and ``bottom`` are in pixels from the top of the picture."""

    top: float
    bottom: float
    heading: str
    ticks: Sequence[tuple[float, str]]
    y: Scale


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Return a scale from values to pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Return a scale from the logarithm of values, clamped to the range, to pixels."""
    inner = linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(min(max(value, low), high)))


def round_step(highest: float, count: int) -> float:
    """Return a step of 1, 2 or 5 times a power of ten, so that at most ``count`` of them reach ``highest``."""
    rough = max(highest, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def whole(value: float) -> str:
    """Return a number as text: 1,000 or 0.5."""
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


def versions(samples: Sequence[Sample]) -> list[str]:
    """Return the versions in the order in which they appear."""
    found = [name for one in samples for name in (one.stable, one.candidate, *one.requests) if name]
    return list(dict.fromkeys(found))


def rates(samples: Sequence[Sample], version: str, seconds: float) -> list[Point]:
    """Return the requests per second that a version answered, as (end of the interval, rate)."""
    counts = [(one.counted, one.requests.get(version, 0)) for one in samples]
    found = []
    edge, before = counts[0]
    for at, count in counts[1:]:
        if at - edge >= seconds:
            found.append((at, (count - before) / (at - edge)))
            edge, before = at, count
    return found


def runs(samples: Sequence[Sample], value: Callable[[Sample], object]) -> Iterator[tuple[float, float, object]]:
    """Yield (start, end, value) for each run of samples with the same value; a run ends where the next begins."""
    start, current = samples[0].seconds, value(samples[0])
    for one in samples[1:]:
        if value(one) != current:
            yield start, one.seconds, current
            start, current = one.seconds, value(one)
    yield start, samples[-1].seconds, current


def path(points: Iterable[Point]) -> str:
    """Return the commands that draw lines through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def stepped(samples: Sequence[Sample], value: Callable[[Sample], float], x: Scale, y: Scale) -> str:
    """Return the commands that draw a value over time as steps."""
    points: list[Point] = []
    for start, end, current in runs(samples, value):
        assert isinstance(current, (int, float))
        points += [(x(start), y(current)), (x(end), y(current))]
    return path(points)


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Return a text element."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style} text-anchor="{anchor}">{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """Return a rectangle with ``title`` as its tooltip."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}">{inner}</rect>'


def frame(panel: Panel, x: Scale, times: Sequence[float]) -> Iterator[str]:
    """Yield the heading, the grid and the axis of a panel."""
    right = WIDTH - RIGHT
    yield label(LEFT, panel.top - 10, panel.heading, "head")
    yield from (line(x(at), panel.top, x(at), panel.bottom, "grid") for at in times)
    for value, text in panel.ticks:
        yield line(LEFT, panel.y(value), right, panel.y(value), "grid")
        yield label(LEFT - 8, panel.y(value) + 4, text, anchor="end")
    yield line(LEFT, panel.bottom, right, panel.bottom, "axis")


def rows_of(marks: Sequence[Mark], x: Scale) -> list[int]:
    """Return for each mark the row of its label, from 0, so that no two labels of a row overlap."""
    ends: list[float] = []
    found = []
    for mark in marks:
        left, width = placed(mark, x)
        row = next((number for number, end in enumerate(ends) if end < left), len(ends))
        ends[row : row + 1] = [left + width + 8]
        found.append(row)
    return found


def placed(mark: Mark, x: Scale) -> tuple[float, float]:
    """Return the left end and the width of a mark's label in pixels: right of its line, or left of it near the edge."""
    width = LETTER * len(mark.text)
    right = x(mark.seconds) + 3
    return (right if right + width < WIDTH - 4 else x(mark.seconds) - 3 - width), width


def events(marks: Sequence[Mark], rows: Sequence[int], x: Scale, spans: Sequence[Point]) -> Iterator[str]:
    """Yield a label and a line for each mark; the line crosses the ``spans`` of pixels, not the headings between."""
    for mark, row in zip(marks, rows, strict=True):
        at, y = x(mark.seconds), TITLE + ROW * (row + 1) - 3
        (left, width), top = placed(mark, x), spans[0][0]
        yield line(at, y - 10, at, top, "mark")
        yield from (line(at, start, at, end, "mark") for start, end in spans)
        yield label(left, y, mark.text) if left > at else label(left + width, y, mark.text, anchor="end")


def phases(samples: Sequence[Sample], x: Scale, top: float) -> Iterator[str]:
    """Yield the strip of phases."""
    for number, (start, end, phase) in enumerate(runs(samples, lambda one: one.phase)):
        if phase:
            name, width = str(phase), x(end) - x(start)
            yield box(x(start), top, width, ROW + 3, ("even", "odd")[number % 2], name)
            if width > LETTER * len(name):
                yield label(x(start) + 4, top + 13, name)


def weights(samples: Sequence[Sample], panel: Panel, x: Scale, colours: dict[str, str]) -> Iterator[str]:
    """Yield the weight of the candidate, in the colour of the candidate."""
    for start, end, current in runs(samples, lambda one: (one.candidate, one.weight)):
        assert isinstance(current, tuple)
        candidate, weight = current
        if candidate and weight:
            top = panel.y(weight)
            yield box(x(start), top, max(x(end) - x(start), 1), panel.bottom - top, colours[candidate])


def stacked(samples: Sequence[Sample], panel: Panel, x: Scale, colours: dict[str, str]) -> Iterator[str]:
    """Yield the requests per second of each version, one on top of the other."""
    seconds = max(1.0, (samples[-1].seconds - samples[0].seconds) / 300)
    below: list[Point] = []
    for version, colour in colours.items():
        found = rates(samples, version, seconds)
        below = below or [(at, 0.0) for at, _ in found]
        above = [(at, base + rate) for (at, base), (_, rate) in zip(below, found, strict=True)]
        if above:
            outline = [*above, *reversed(below)]
            yield f'<path d="{path((x(at), panel.y(rate)) for at, rate in outline)}Z" class="{colour}"/>'
        below = above


def figures(
    samples: Sequence[Sample], panel: Panel, x: Scale, value: Callable[[Sample], float | None]
) -> Iterator[str]:
    """Yield a line for each interval that has a value, with a dot where it changes."""
    for start, end, current in runs(samples, lambda one: (one.candidate, value(one))):
        assert isinstance(current, tuple)
        if current[1] is not None:
            y = panel.y(current[1])
            yield f'<path d="{path([(x(start), y), (x(end), y)])}" class="line evidence"/>'
            yield f'<circle cx="{x(start):.1f}" cy="{y:.1f}" r="2.5" class="dot"/>'


def legend(colours: dict[str, str], y: float) -> Iterator[str]:
    """Yield a coloured square and the name of each version, right-aligned."""
    left = WIDTH - RIGHT - sum(26 + LETTER * len(name) for name in colours)
    for name, colour in colours.items():
        yield box(left, y - 10, 11, 11, colour)
        yield label(left + 15, y, name)
        left += 26 + LETTER * len(name)


def failures(samples: Sequence[Sample], panel: Panel, x: Scale) -> Iterator[str]:
    """Yield both counts of failures, with their totals."""
    last = samples[-1]
    yield f'<path d="{stepped(samples, lambda one: one.fallbacks, x, panel.y)}" class="line fallbacks"/>'
    yield f'<path d="{stepped(samples, lambda one: one.failed, x, panel.y)}" class="line failed"/>'
    keys = (("fallbacks", f"failed by the candidate, retried on stable: {last.fallbacks:,}"),
            ("failed", f"failed for the client: {last.failed:,}"))  # fmt: skip
    left = WIDTH - RIGHT - sum(34 + LETTER * len(text) for _, text in keys)
    for kind, text in keys:
        yield line(left, panel.top - 14, left + 16, panel.top - 14, f"line {kind}")
        yield label(left + 21, panel.top - 10, text)
        left += 34 + LETTER * len(text)


def panels(samples: Sequence[Sample], top: float, names: Sequence[str]) -> list[Panel]:
    """Return the five panels, one below the other."""
    last = samples[-1]
    busiest = max((sum(rate for _, rate in tick) for tick in _totals(samples, names)), default=1.0)
    step, worst = round_step(busiest * 1.05, 3), max(last.fallbacks, last.failed, 1)
    count = max(1.0, round_step(worst, 4))
    decades = [(FLOOR, f"≤ {FLOOR:g}"), *((at, whole(at)) for at in (1.0, 10.0, 100.0, 1000.0))]
    plans: list[tuple[str, float, list[tuple[float, str]], Callable[..., Scale], float, float]] = [
        ("Candidate's share of the requests, %", 90, [(at, str(at)) for at in (0, 25, 50, 100)], linear, 0, 100),
        ("Requests answered per second", 90, _ticks(step, busiest * 1.05), linear, 0, busiest * 1.05),
        ("Requests that failed, total", 70, _ticks(count, worst * 1.1), linear, 0, worst * 1.1),
        (f"Evidence against the candidate, written every 10 s; at {DECISIVE:,} it is rolled back", 80,
         decades, logarithmic, FLOOR, 1e4),
        ("Error rate below which the candidate has been proven to be, %", 80,
         [(at, whole(at)) for at in (1.0, 3.0, 10.0, 30.0, 100.0)], logarithmic, 0.5, 100),
    ]  # fmt: skip
    found = []
    for heading, height, ticks, scale, low, high in plans:
        bottom = top + GAP + height
        found.append(Panel(top + GAP, bottom, heading, ticks, scale(low, high, bottom, top + GAP)))
        top = bottom
    return found


def _ticks(step: float, highest: float) -> list[tuple[float, str]]:
    return [(number * step, whole(number * step)) for number in range(int(highest / step) + 1)]


def _totals(samples: Sequence[Sample], names: Sequence[str]) -> Iterator[tuple[Point, ...]]:
    return zip(*(rates(samples, name, 1.0) for name in names), strict=True)


def draw(recording: Recording) -> str:
    """Return the picture of a recording as SVG."""
    samples = recording.samples
    names = versions(samples)
    colours = {name: f"c{number % 4}" for number, name in enumerate(names)}
    first, end = samples[0].seconds, max(samples[-1].seconds, samples[0].seconds + 1)
    x = linear(first, end, LEFT, WIDTH - RIGHT)
    rows = rows_of(recording.marks, x)
    strip = TITLE + ROW * (max(rows, default=0) + 1) + 8
    weight, traffic, failed, against, certified = parts = panels(samples, strip + ROW, names)
    step = round_step(end - first, 10)
    times = [number * step for number in range(math.ceil(first / step), int(end / step) + 1)]
    out = [label(LEFT, 24, "Rollouts under constant traffic", "title")]
    for panel in parts:
        out += frame(panel, x, times)
    out += phases(samples, x, strip)
    out += weights(samples, weight, x, colours)
    out += [*stacked(samples, traffic, x, colours), *legend(colours, traffic.top - 10)]
    out += failures(samples, failed, x)
    out.append(line(LEFT, against.y(DECISIVE), WIDTH - RIGHT, against.y(DECISIVE), "limit"))
    out += figures(samples, against, x, lambda one: one.against)
    out += figures(samples, certified, x, lambda one: one.certified)
    out += events(recording.marks, rows, x, [(strip, strip + ROW + 3), *((one.top, one.bottom) for one in parts)])
    foot = parts[-1].bottom + 16
    out += [label(x(at), foot, whole(at), anchor="middle") for at in times]
    out.append(label((LEFT + WIDTH - RIGHT) / 2, foot + 18, "seconds", anchor="middle"))
    height = foot + 32
    body = "\n".join(out)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n<title>Rollouts under constant traffic</title>\n<style>{STYLE}</style>\n'
        f"{box(0.5, 0.5, WIDTH - 1, height - 1, 'back')}\n{body}\n</svg>\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a recording; return 1 if the file is not one."""
    parser = argparse.ArgumentParser(prog="python -m hack.picture", description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path, help="file that `make demo` wrote, such as out/demo.jsonl")
    parser.add_argument("picture", type=Path, help="SVG file to write")
    given = parser.parse_args(argv)
    try:
        recording = read(given.recording.read_text("utf-8").splitlines())
    except (OSError, TypeError, ValueError) as error:
        print(f"Cannot draw {given.recording}: {error}. Run `make demo` to write a recording.", file=sys.stderr)
        return 1
    given.picture.write_text(draw(recording), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
