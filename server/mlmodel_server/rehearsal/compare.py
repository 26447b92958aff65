"""Pairs of answers, stable's own and the candidate's to the same request, as counts.

Pure: no clock, no input or output. Of each pair one row of the first output is drawn. Kept are the outcomes, and of the
latest rows hashes of labels and some numbers, in memory of a fixed size. docs/explanation/rehearsal.md describes every
figure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from math import log, prod
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mlmodel_server.tensors import DTYPES, Array

ROWS = 5000
"""Maximum number of rows that are kept for one output, the latest."""

COLUMNS = 32
"""Maximum number of columns that are compared; of a wider row these many, evenly spread over it."""

SAME = 0.1
"""Greatest gap of numbers that count as the same, in units of stable's spread."""

WARM_UP = 5
"""Answers of each side whose times do not count: the first ones take longer."""

GAPS, RATIOS, TIMES = (-20, 20), (-100, 100), (0, 200)
"""Least and greatest bin of each histogram."""

_EQUAL = 1e-9  # relative: the two numbers are equal except for rounding
_FLOOR = 500  # microseconds by which both times of a ratio are raised: 0.2 ms more decide nothing
_OUTPUTS = 4  # outputs that clients request first; rows of others are not compared
_ROUNDING = 1e-15  # of the greatest number: a standard deviation below this is that of a constant
_TRIMS = (0.0, 0.02, 0.1)  # parts of the least and of the greatest numbers that do not decide about the scale
_LENGTH = 4  # bytes before each text
_AGREE = ("rows", "same", "outside", "candidate_mode", "own_mode", "form")
_KINDS = {"B": "bool", "F": "float", "I": "integer", "U": "integer"}


class Output(msgspec.Struct, frozen=True):
    """One tensor of a reply, with its data as in protocol v2: row-major, little-endian, texts with their length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview
    is_row: bool = False
    """Whether the data are those of one row, which the server has drawn; the shape is that of all."""


class Row(NamedTuple):
    """One row of an output. ``form`` is what clients depend on: name, kind of datatype, shape. ``label`` is a hash of
    the row, ``numbers`` its columns if it has floating-point numbers. ``top`` is the position of the greatest number
    plus one if the row is a distribution, else 0."""

    form: tuple[str, str, tuple[int, ...]]
    label: int
    numbers: Array | None
    top: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side answered: failed, or the microseconds of the prediction and the drawn row, None without rows."""

    failed: bool
    microseconds: int = 0
    row: Row | None = None


FAILED = Answer(True)


def draw_row(output: Output, draw: int) -> Row | None:
    """Return the row that ``draw``, any integer, selects; None without rows. Raise :class:`ValueError` if the data do
    not fit."""
    rows = output.shape[0] if output.shape else 1
    columns = output.shape[1:]
    if min(output.shape, default=0) < 0 or output.datatype not in DTYPES:
        raise ValueError("shape or datatype is unknown")
    if not rows:
        return None
    width, place = prod(columns), 0 if output.is_row else draw % rows
    if output.datatype == "BYTES":
        kind, values, numbers = "text", _texts(output.data, place * width, width), None
    else:
        kind = _KINDS[output.datatype[0]]
        dtype = DTYPES[output.datatype].newbyteorder("<")
        if len(output.data) != (1 if output.is_row else rows) * width * dtype.itemsize:
            raise ValueError("the data do not fit the shape")
        array = np.frombuffer(output.data, dtype, width, place * width * dtype.itemsize)
        numbers = array.astype(np.float64) if kind == "float" else None
        values = array.tolist() if numbers is None else []
    form = (output.name, kind, output.shape)
    if numbers is None:
        return Row(form, hash_of(repr(values)), None, 0)
    top = int(numbers.argmax()) + 1 if _is_distribution(numbers) else 0
    kept = numbers if width <= COLUMNS else numbers[np.linspace(0, width - 1, COLUMNS).astype(int)]
    return Row(form, hash_of(" ".join(f"{value + 0.0:.9g}" for value in kept.tolist())), kept, top)


def _texts(data: memoryview, first: int, count: int) -> list[bytes]:
    start, texts = 0, []
    for place in range(first + count):
        end = start + _LENGTH + int.from_bytes(data[start : start + _LENGTH], "little")
        if start + _LENGTH > len(data) or end > len(data):
            raise ValueError("the data do not fit the shape")
        if place >= first:
            texts.append(bytes(data[start + _LENGTH : end]))
        start = end
    return texts


def hash_of(text: str) -> int:
    """Return 64 bits that differ for different texts."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _is_distribution(numbers: Array) -> bool:
    return len(numbers) > 1 and bool((numbers >= 0).all()) and abs(float(numbers.sum()) - 1) < 1e-3


@dataclass(slots=True)
class Agreement:
    """Rows that were compared, as counts; docs/explanation/rehearsal.md has the meaning of each."""

    rows: int = 0
    same: int = 0
    outside: int = 0
    candidate_mode: int = 0
    own_mode: int = 0
    form: int = 0
    gaps: Counter[int] = field(default_factory=Counter)

    def add(self, other: Agreement) -> None:
        """Add the counts of another output."""
        for name in _AGREE:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.gaps.update(other.gaps)


class _Rows:
    """The latest pairs of rows of one output, in arrays that grow up to :data:`ROWS`."""

    def __init__(self, width: int) -> None:
        """``width`` is the number of columns, 0 for labels."""
        self._count = 0
        self._labels: Array = np.zeros((64, 2), np.uint64)
        self._tops: Array = np.zeros((64, 2), np.int64)
        self._formed: Array = np.zeros(64, np.bool_)
        self._numbers: Array = np.zeros((64, 2, width))

    def add(self, one: Row, other: Row | None) -> None:
        """Keep a pair of rows; ``other`` may be missing, or have another form."""
        size = len(self._formed)
        if self._count == size < ROWS:
            self._labels, self._tops, self._formed, self._numbers = (
                np.resize(array, (min(2 * size, ROWS), *array.shape[1:]))
                for array in (self._labels, self._tops, self._formed, self._numbers)
            )
        place = self._count % ROWS
        self._count += 1
        self._labels[place] = one.label, other.label if other else 0
        self._tops[place] = one.top, other.top if other else 0
        self._formed[place] = formed = other is not None and other.form == one.form
        if one.numbers is not None:
            self._numbers[place, 0] = one.numbers
            self._numbers[place, 1] = other.numbers if other and formed else np.nan

    def kept(self) -> _Kept:
        """Return the rows, without a copy."""
        many = min(self._count, ROWS)
        return _Kept(self._labels[:many], self._tops[:many], self._formed[:many], self._numbers[:many])


class _Kept(NamedTuple):
    labels: Array  # [rows, 2]
    tops: Array  # [rows, 2]
    formed: Array  # [rows], whether both rows have the same form
    numbers: Array  # [rows, 2, columns]

    def where(self, mask: Array) -> _Kept:
        """Return the rows of which the ``mask`` is true."""
        return _Kept(*(part[mask] for part in self))


class _Scale(NamedTuple):
    """The numbers that stable answered, by column: one standard deviation, and the range widened by it. The least and
    the greatest tenth have no influence: with one request of extreme numbers, a client would make all others equal."""

    spread: Array
    low: Array
    high: Array


class _Output:
    """Rows of one output: stable's and the candidate's, and those that stable answered twice."""

    def __init__(self, row: Row) -> None:
        self._width = 0 if row.numbers is None else len(row.numbers)
        self.pairs, self.again = _Rows(self._width), _Rows(self._width)

    def figures(self) -> tuple[Agreement, Agreement]:
        """Return the agreement of the pairs, and of the rows that stable answered twice, on the same scale."""
        pairs, again = self.pairs.kept(), self.again.kept()
        if not self._width:
            return _of_names(pairs, pairs.labels), _of_names(again, again.labels)
        # If most answers of stable are distributions, the most probable classes of these are compared. The others, as
        # one with NaN, are numbers: one such request must not make numbers of all.
        are_classes = bool(2 * np.count_nonzero(pairs.tops[:, 0]) > len(pairs.tops))
        with np.errstate(over="ignore"):  # the range of the greatest numbers is infinite
            scale = _scale(pairs.where(~_are_named(pairs, are_classes)).numbers[:, 0])
        return _of_both(pairs, scale, are_classes), _of_both(again, scale, are_classes)


def _are_named(kept: _Kept, are_classes: bool) -> Array:
    return np.asarray((kept.tops[:, 0] > 0) & are_classes)


def _of_both(kept: _Kept, scale: _Scale, are_classes: bool) -> Agreement:
    """Compare the classes of the distributions, if ``are_classes``, and the numbers of all other rows."""
    are_named = _are_named(kept, are_classes)
    named, result = kept.where(are_named), _of_numbers(kept.where(~are_named), scale)
    result.add(_of_names(named, named.tops))
    return result


def _of_names(kept: _Kept, names: Array) -> Agreement:
    same = (names[:, 0] == names[:, 1]) & kept.formed
    return Agreement(
        rows=len(names),
        same=int(same.sum()),
        candidate_mode=_most_frequent(names[:, 1]),
        own_mode=_most_frequent(names[:, 0]),
        form=int((~kept.formed).sum()),
    )


def _of_numbers(kept: _Kept, scale: _Scale) -> Agreement:
    result = _of_names(kept, kept.labels)
    own, candidate = kept.numbers[kept.formed, 0], kept.numbers[kept.formed, 1]
    with np.errstate(all="ignore"):  # infinities and NaN are counted
        gaps = _gaps(own, candidate, scale.spread)
        bins = np.ceil(np.log2(gaps)).clip(*GAPS).astype(int)  # the logarithm of 0 is below the least bin
        outside = np.where(np.isfinite(candidate), (candidate < scale.low) | (candidate > scale.high), np.isfinite(own))
    result.same = int((gaps <= SAME).sum())
    result.outside = int(outside.any(axis=1).sum())
    result.gaps = Counter(bins.tolist())
    return result


def _scale(numbers: Array) -> _Scale:
    """Return the scale of numbers, shape [rows, columns]; those that are not finite do not count."""
    finite = np.isfinite(numbers)
    many = finite.sum(axis=0)
    greatest = np.where(finite, np.abs(numbers), 0.0).max(axis=0, initial=0.0)
    unit = np.where(greatest > 0, greatest, 1.0)  # squares of great numbers would overflow
    ordered = np.sort(np.where(finite, numbers, np.nan), axis=0)  # NaN is last
    mean, spread = np.zeros((2, len(many)))
    low, high = np.full((2, len(many)), [[np.inf], [-np.inf]])
    for trim in _TRIMS if len(numbers) else ():
        first = (trim * many).astype(int)
        least, most = (
            np.take_along_axis(ordered, place[None], axis=0)[0] for place in (first, np.maximum(many - 1 - first, 0))
        )
        scaled = np.where(finite, numbers.clip(least, most) / unit, 0.0)
        mean = scaled.sum(axis=0) / np.maximum(many, 1)
        deviation = np.sqrt((np.where(finite, scaled - mean, 0.0) ** 2).sum(axis=0) / np.maximum(many, 1))
        usable = (deviation > _ROUNDING) | ((trim == 0) & (many > 0))  # else what remains is a constant
        spread = np.where(usable & (deviation > _ROUNDING), deviation * unit, spread)
        low, high = np.where(usable, least, low), np.where(usable, most, high)
    spread = np.where(spread > 0, spread, np.maximum(np.abs(mean * unit), 1.0) * _EQUAL)
    return _Scale(spread, low - spread, high + spread)


def _gaps(own: Array, candidate: Array, spread: Array) -> Array:
    """Return the largest gap of each row in units of the spread: 0 if equal, infinite if only one is finite."""
    gaps = np.abs(candidate - own)
    equal = (own == candidate) | (np.isnan(own) & np.isnan(candidate))
    equal |= np.isfinite(gaps) & (gaps <= _EQUAL * np.maximum(np.abs(own), np.abs(candidate)))
    units = np.where(np.isnan(gaps), np.inf, gaps / spread)
    return np.asarray(np.where(equal, 0.0, units).max(axis=1, initial=0.0))


def _most_frequent(names: Array) -> int:
    return int(np.unique(names, return_counts=True)[1].max(initial=0))


class Pairs:
    """Counts of the pairs of one candidate. The sender adds, the page reads."""

    def __init__(self) -> None:
        self._outcomes = dict.fromkeys(("both", "candidate_failed", "own_failed", "both_failed"), 0)
        self._outputs: dict[object, _Output] = {}
        self._warm = {"own": 0, "candidate": 0}
        self._times: dict[str, Counter[int]] = {
            name: Counter() for name in ("ratios", "ratios_again", "times", "own_times")
        }
        self._figures: dict[str, Any] | None = None

    def add(self, own: Answer, candidate: Answer, again: Answer | None = None) -> None:
        """Count a pair, with the second answer of stable to the same request if there is one."""
        self._figures = None
        outcome = {
            (False, False): "both",
            (False, True): "candidate_failed",
            (True, False): "own_failed",
            (True, True): "both_failed",
        }[own.failed, candidate.failed]
        self._outcomes[outcome] += 1
        self.add_times(own, candidate, again)
        if own.failed or own.row is None:
            return
        output = self._output(own.row)
        if output and not candidate.failed:
            output.pairs.add(own.row, candidate.row)
        if output and again and not again.failed:
            output.again.add(own.row, again.row)

    def _output(self, row: Row) -> _Output | None:
        name, kind, shape = row.form
        key = name, kind, shape[1:]
        if key not in self._outputs and len(self._outputs) < _OUTPUTS:
            self._outputs[key] = _Output(row)
        return self._outputs.get(key)

    def add_times(self, own: Answer, candidate: Answer, again: Answer | None = None) -> None:
        """Count the times of a pair, and nothing else."""
        self._figures = None
        answers = {"own": own, "candidate": candidate}
        warm = {side: self._is_warm(side, answer) for side, answer in answers.items()}
        if warm["own"]:
            self._times["own_times"][_time_bin(own.microseconds)] += 1
            if again and self._is_warm("own", again):
                self._times["ratios_again"][_ratio_bin(again.microseconds, own.microseconds)] += 1
        if warm["candidate"]:
            self._times["times"][_time_bin(candidate.microseconds)] += 1
        if all(warm.values()):
            self._times["ratios"][_ratio_bin(candidate.microseconds, own.microseconds)] += 1

    def _is_warm(self, side: str, answer: Answer) -> bool:
        if answer.failed or not answer.microseconds:
            return False
        self._warm[side] += 1
        return self._warm[side] > WARM_UP

    def figures(self) -> dict[str, Any]:
        """Return the figures of the page: some milliseconds for thousands of rows, nothing without a new pair."""
        if self._figures is None:
            self._figures = self._computed()
        return self._figures

    def _computed(self) -> dict[str, Any]:
        agree, again = Agreement(), Agreement()
        for output in list(self._outputs.values()):
            for total, part in zip((agree, again), output.figures(), strict=True):
                total.add(part)
        return {
            "pairs": dict(self._outcomes),
            "again": {"both": again.rows, "differ": again.rows - again.same},
            "agree": {name: getattr(agree, name) for name in _AGREE},
            "gaps": _histogram(agree.gaps),
            "gaps_again": _histogram(again.gaps),
        } | {name: _histogram(counts) for name, counts in self._times.items()}


def _ratio_bin(candidate: int, own: int) -> int:
    return _clamped(round(log((candidate + _FLOOR) / (own + _FLOOR)) / log(1.05)), RATIOS)


def _time_bin(microseconds: int) -> int:
    return _clamped(round(log(microseconds) / log(1.1)), TIMES)


def _clamped(number: int, bounds: tuple[int, int]) -> int:
    return min(max(number, bounds[0]), bounds[1])


def _histogram(counts: Counter[int]) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}
