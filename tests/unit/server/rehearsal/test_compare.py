"""Counts of pairs: outcomes, agreement of every form of output, times."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from mlmodel_server.protocol.binary import to_raw
from mlmodel_server.rehearsal.compare import (
    COLUMNS,
    FAILED,
    ROWS,
    WARM_UP,
    Answer,
    Output,
    Pairs,
    draw_row,
)
from mlmodel_server.tensors import DTYPES, Tensor, named

SEED = 20261129


def output(array: Any, name: str = "predict", datatype: str = "") -> Output:
    """The first output of a reply, as a server sends it."""
    array = np.asarray(array)
    tensor = Tensor(name, datatype, array.astype(DTYPES[datatype])) if datatype else named(name, array)
    return Output(name, tensor.datatype, array.shape, memoryview(to_raw(tensor)))


def answer(array: Any, microseconds: int = 1000, draw: int = 0, name: str = "predict", datatype: str = "") -> Answer:
    return Answer(False, microseconds, draw_row(output(array, name, datatype), draw))


def pairs(own: Any, candidate: Any, again: Any = None) -> dict[str, Any]:
    """The figures of pairs of answers with one row each."""
    counted = Pairs()
    seconds = [None] * len(own) if again is None else again
    for one, other, second in zip(own, candidate, seconds, strict=True):
        counted.add(answer([one]), answer([other]), None if second is None else answer([second]))
    return counted.figures()


def test_outcomes() -> None:
    counted, answered = Pairs(), answer([1])
    for own, candidate, times in (
        (answered, answered, 4),
        (answered, FAILED, 3),
        (FAILED, answered, 2),
        (FAILED, FAILED, 1),
    ):
        for _ in range(times):
            counted.add(own, candidate)
    figures = counted.figures()
    assert figures["pairs"] == {"both": 4, "candidate_failed": 3, "own_failed": 2, "both_failed": 1}
    assert figures["agree"]["rows"] == 4, "a failed answer has no row"


@pytest.mark.parametrize(
    ("one", "other"),
    [("setosa", "virginica"), (1, 2), (True, False), ("", "é"), ("a" * 5000, "a" * 4999 + "b"), (2**63 - 1, 2**62)],
)
def test_labels_agree_if_they_are_equal(one: Any, other: Any) -> None:
    figures = pairs([one, one, other], [one, other, other])
    assert figures["agree"] == {
        "rows": 3, "same": 2, "outside": 0, "candidate_mode": 2, "own_mode": 2, "form": 0
    }  # fmt: skip
    assert figures["gaps"] == {}, "labels have no distance"


def test_a_label_of_several_columns_is_the_whole_row() -> None:
    assert pairs([[1, 2], [1, 2]], [[1, 2], [1, 3]])["agree"]["same"] == 1


def test_a_constant_answer_shows_in_the_modes() -> None:
    agree = pairs(["a", "b"] * 50, ["a"] * 100)["agree"]
    assert (agree["same"], agree["own_mode"], agree["candidate_mode"]) == (50, 50, 100)
    agree = pairs([float(n) for n in range(100)], [0.5] * 100)["agree"]
    assert (agree["own_mode"], agree["candidate_mode"]) == (1, 100)


def test_numbers_agree_within_a_tenth_of_the_spread() -> None:
    own = [0.0, 2.0] * 50  # the spread is 1
    shifts = {0: 0.0, 1: 0.09, 2: 0.11, 3: 0.7, 4: 1.5, 5: 3.5}
    candidate = [value + shifts.get(place, 0.0) for place, value in enumerate(own)]
    figures = pairs(own, candidate)
    assert figures["agree"]["same"] == 96
    # 0.09 is in (2^-4, 2^-3], 0.11 too; 0.7 in (1/2, 1]; 1.5 in (1, 2]; 3.5 in (2, 4].
    assert figures["gaps"] == {"-20": 95, "-3": 2, "0": 1, "1": 1, "2": 1}
    assert figures["agree"]["outside"] == 1, "5.5 is above 2 + 1; 1.5 is not above 3"


def test_the_spread_is_that_of_all_answers_and_not_of_the_first() -> None:
    own = [0.0, 0.001, *np.linspace(0, 100, 98).tolist()]
    assert pairs(own, [value + 1 for value in own])["agree"]["same"] == 100


def test_a_constant_stable_has_an_absolute_scale() -> None:
    assert pairs([5.0] * 10, [5.0] * 10)["agree"] == {
        "rows": 10, "same": 10, "outside": 0, "candidate_mode": 10, "own_mode": 10, "form": 0
    }  # fmt: skip
    agree = pairs([5.0] * 10, [5.0 + 1e-6] * 10)["agree"]
    assert (agree["same"], agree["outside"]) == (0, 10)
    assert pairs([0.1] * 10, [0.1 + 1e-17] * 10)["agree"]["same"] == 10


def test_what_is_not_finite() -> None:
    nan, inf = math.nan, math.inf
    own = [1.0, 2.0, nan, inf, -inf, 3.0, 4.0, nan, inf]
    candidate = [1.0, nan, nan, inf, -inf, inf, -inf, 1.0, -inf]
    figures = pairs(own, candidate)
    assert figures["agree"]["same"] == 4, "a missing number equals a missing number, an infinity itself"
    assert figures["agree"]["outside"] == 3, "stable's answer to these rows is a number"
    assert figures["gaps"] == {"-20": 4, "20": 5}


def test_numbers_near_the_greatest_do_not_overflow() -> None:
    own = [1e308, -1e308] * 10
    assert pairs(own, own)["agree"]["same"] == 20
    figures = pairs(own, own[::-1])
    assert (figures["agree"]["same"], figures["gaps"]) == (0, {"20": 20})


def test_probabilities_agree_by_their_greatest() -> None:
    random = np.random.default_rng(SEED)
    own = random.dirichlet([1, 1, 1], 200)
    noisy = own * random.uniform(0.999, 1.001, own.shape)
    figures = pairs(own, noisy / noisy.sum(axis=1, keepdims=True))
    assert figures["agree"]["same"] >= 198
    assert figures["gaps"] == {}
    swapped = pairs(own, own[:, ::-1])["agree"]
    middle = int((own.argmax(axis=1) == 1).sum())
    assert (swapped["same"], swapped["rows"]) == (middle, 200)
    greatest = np.bincount(own.argmax(axis=1)).max()
    assert swapped["own_mode"] == greatest


def test_probabilities_that_became_missing_agree_with_nothing() -> None:
    own = [[0.2, 0.8]] * 10
    agree = pairs(own, [[math.nan, math.nan]] * 5 + [[2.0, 8.0]] * 5)["agree"]
    assert (agree["same"], agree["candidate_mode"]) == (0, 10)


def test_a_vector_that_is_now_and_then_a_distribution_is_a_vector() -> None:
    own = [[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    figures = pairs(own, [[0.0, 0.9], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert figures["agree"]["same"] == 3, "0.1 is a fifth of the spread, although the greatest is the same"
    assert sum(figures["gaps"].values()) == 4


def test_the_largest_gap_of_a_vector_decides_on_the_scale_of_its_column() -> None:
    own = [[0.0, 0.0], [2.0, 2000.0]]  # spreads 1 and 1000
    figures = pairs(own, [[0.0, 50.0], [2.4, 2050.0]])
    assert figures["agree"]["same"] == 1
    assert figures["gaps"] == {"-4": 1, "-1": 1}


def test_a_wide_vector_is_compared_in_some_columns() -> None:
    own = np.random.default_rng(SEED).normal(size=(50, 1000))
    row = draw_row(output(own), 3)
    assert row is not None
    assert row.numbers is not None
    assert (len(row.numbers), row.numbers[0], row.numbers[-1]) == (COLUMNS, own[3, 0], own[3, -1])
    assert pairs(own, own)["agree"]["same"] == 50
    assert pairs(own, own + 1)["agree"]["same"] == 0


@pytest.mark.parametrize(
    "other",
    [
        answer([1.5, 2.5]),
        answer([[1.5]]),
        answer([1.5], name="score"),
        answer(["1.5"]),
        answer([1]),
        answer([1.5, 1.5]),
        answer(np.zeros((0,))),
        Answer(False, 1000, None),
    ],
    ids=["rows", "shape", "name", "text", "integer", "equal rows", "empty", "without output"],
)
def test_another_form(other: Answer) -> None:
    counted = Pairs()
    counted.add(answer([1.5]), other)
    counted.add(answer([2.5]), answer([2.5]))
    agree = counted.figures()["agree"]
    assert (agree["rows"], agree["form"], agree["same"]) == (2, 1, 1)


def test_equal_labels_in_another_form_are_not_the_same() -> None:
    counted = Pairs()
    counted.add(answer(["a"]), answer(["a"], name="label"))
    counted.add(answer(["a"]), answer(["a", "a"]))
    agree = counted.figures()["agree"]
    assert (agree["form"], agree["same"]) == (2, 0)


def test_the_latest_rows_are_kept() -> None:
    counted, one, other = Pairs(), answer([1.0]), answer([2.0])
    for _ in range(ROWS):
        counted.add(one, other)
    assert counted.figures()["agree"]["same"] == 0
    for _ in range(ROWS - 10):
        counted.add(one, one)
    assert counted.figures()["agree"]["same"] == ROWS - 10
    for _ in range(100):
        counted.add(one, one)
    assert counted.figures()["agree"]["same"] == ROWS


def test_the_width_of_a_number_is_not_another_form() -> None:
    counted = Pairs()
    counted.add(answer([1.5], datatype="FP32"), answer([1.5], datatype="FP64"))
    counted.add(answer([1 / 3], datatype="FP32"), answer([1 / 3], datatype="FP64"))
    counted.add(answer([2.0], datatype="FP16"), answer([2.0], datatype="FP64"))
    agree = counted.figures()["agree"]
    assert (agree["form"], agree["same"]) == (0, 3)
    counted = Pairs()
    counted.add(answer([7], datatype="INT64"), answer([7], datatype="UINT8"))
    assert counted.figures()["agree"]["same"] == 1


def test_an_empty_answer_has_no_row() -> None:
    counted = Pairs()
    counted.add(answer(np.zeros((0, 3))), answer(np.zeros((0, 3))))
    figures = counted.figures()
    assert (figures["pairs"]["both"], figures["agree"]["rows"]) == (1, 0)


@pytest.mark.parametrize("draw", [0, 1, 2, 5, 2**63])
@pytest.mark.parametrize(
    "array", [[1.5, 2.5, 3.5], [7, 8, 9], [True, False, True], ["a", "bb", ""], [["a", "b"], ["", "c"], ["d", "e"]]]
)
def test_the_drawn_row_is_the_same_on_both_sides(array: list[Any], draw: int) -> None:
    drawn = draw_row(output(array), draw)
    alone = draw_row(output([array[draw % 3]]), 0)
    assert drawn is not None
    assert alone is not None
    assert drawn.label == alone.label


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_every_datatype(datatype: str) -> None:
    counted = Pairs()
    for value in (0, 1, 1):
        counted.add(answer([value], datatype=datatype), answer([value], datatype=datatype))
    agree = counted.figures()["agree"]
    assert (agree["same"], agree["own_mode"]) == (3, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        Output("a", "FP64", (2,), memoryview(b"1234567")),
        Output("a", "FP64", (-1,), memoryview(b"12345678")),
        Output("a", "BYTES", (2,), memoryview(b"\x01\0\0\0a")),
        Output("a", "BYTES", (1,), memoryview(b"\xff\xff\xff\xffa")),
        Output("a", "BF16", (1,), memoryview(b"12")),
        Output("a", "FP64", (2**40, 2**40), memoryview(b"")),
        Output("a", "BYTES", (1, 2**60), memoryview(b"")),
    ],
)
def test_data_that_do_not_fit_are_not_read(wrong: Output) -> None:
    with pytest.raises(ValueError, match=r"fit|unknown"):
        draw_row(wrong, 1)


def test_a_scalar_is_one_row() -> None:
    row = draw_row(Output("a", "FP32", (), memoryview(np.float32(2.5).tobytes())), 7)
    assert row is not None
    assert row.numbers is not None
    assert row.numbers.tolist() == [2.5]


def test_a_stable_that_is_not_deterministic_differs_from_itself_on_the_same_scale() -> None:
    random = np.random.default_rng(SEED)
    truth = random.normal(size=1000)
    noise = random.normal(scale=0.1, size=(3, 1000))
    figures = pairs(truth + noise[0], truth + noise[1], truth + noise[2])
    again = figures["again"]
    assert again["both"] == 1000
    assert again["differ"] / 1000 == pytest.approx(1 - figures["agree"]["same"] / 1000, abs=0.05)
    assert sum(figures["gaps_again"].values()) == 1000
    assert pairs(truth, truth, truth)["again"] == {"both": 1000, "differ": 0}


def test_outputs_that_clients_choose_are_compared_each_with_its_own() -> None:
    counted = Pairs()
    for number in range(10):
        counted.add(answer([float(number)]), answer([float(number)]))
        counted.add(answer([number + 1e6], name="score"), answer([number + 1e6 + 5], name="score"))
        counted.add(answer(["x"], name="label"), answer(["x"], name="label"))
    agree = counted.figures()["agree"]
    assert (agree["rows"], agree["same"]) == (30, 20), "5 is more than a tenth of the score's spread of 3"


def test_only_so_many_outputs_are_compared() -> None:
    counted = Pairs()
    for number in range(100):
        counted.add(answer([1.0], name=str(number)), answer([1.0], name=str(number)))
    figures = counted.figures()
    assert (figures["pairs"]["both"], figures["agree"]["rows"]) == (100, 4)


def test_ratios_are_those_of_warm_answers() -> None:
    counted = Pairs()
    for _ in range(WARM_UP):
        counted.add(answer([1], 50_000), answer([1], 90_000), answer([1], 50_000))
    assert counted.figures()["times"] == counted.figures()["ratios"] == {}
    counted = Pairs()
    for _ in range(WARM_UP + 20):
        counted.add(answer([1], 9_500), answer([1], 19_500))
    figures = counted.figures()
    assert figures["ratios"] == {"14": 20}, "1.05^14 is 1.98"
    assert figures["own_times"] == {str(round(math.log(9_500, 1.1))): 20}
    assert figures["times"] == {str(round(math.log(19_500, 1.1))): 20}
    assert sum(figures["pairs"].values()) == WARM_UP + 20, "errors count from the first answer on"


def test_a_fifth_of_a_millisecond_is_not_a_slower_version() -> None:
    counted = Pairs()
    for _ in range(WARM_UP + 1):
        counted.add(answer([1], 100), answer([1], 300))
    assert counted.figures()["ratios"] == {"6": 1}, "1.05^6 is 1.34, below any default limit"


@pytest.mark.parametrize(("own", "candidate", "bin_"), [(1, 10**9, "100"), (10**9, 1, "-100"), (1, 1, "0")])
def test_bins_are_bounded(own: int, candidate: int, bin_: str) -> None:
    counted = Pairs()
    for _ in range(WARM_UP + 1):
        counted.add(answer([1], own), answer([1], candidate))
    figures = counted.figures()
    assert figures["ratios"] == {bin_: 1}
    assert all(0 <= int(place) <= 200 for name in ("times", "own_times") for place in figures[name])


def test_stable_beside_itself_has_ratios_too() -> None:
    counted = Pairs()
    for _ in range(WARM_UP + 5):
        counted.add(answer([1], 1000), answer([1], 1000), answer([1], 1000))
    assert set(counted.figures()["ratios_again"]) == {"0"}


def test_a_failed_answer_has_no_time() -> None:
    counted = Pairs()
    for _ in range(20):
        counted.add(answer([1]), FAILED)
    figures = counted.figures()
    assert figures["times"] == figures["ratios"] == {}
    assert sum(figures["own_times"].values()) == 20 - WARM_UP


def test_memory_and_time_are_bounded() -> None:
    random = np.random.default_rng(SEED)
    wide = random.normal(size=(ROWS + 500, COLUMNS))
    rows = [answer([row]) for row in wide]
    counted = Pairs()
    started = time.process_time()
    for row in rows:
        counted.add(row, row)
    each = (time.process_time() - started) / len(rows)
    started = time.process_time()
    figures = counted.figures()
    taken = time.process_time() - started
    print(f"seed {SEED}: {each * 1e6:.0f} us for a pair, {taken * 1e3:.1f} ms for the figures of {ROWS}")
    assert figures["agree"]["rows"] == figures["agree"]["same"] == ROWS
    assert figures["pairs"]["both"] == ROWS + 500
    assert each < 0.001
    assert taken < 0.2


def test_the_invariants_of_the_page_hold_for_any_answers() -> None:
    random = np.random.default_rng(SEED)
    kinds: list[Any] = [
        1.0, math.nan, math.inf, 0, 7, True, "a", "b", [0.2, 0.8], [0.9, 0.1], [1.0, 2.0], [[1.0], [2.0]], ["a", "b"]
    ]  # fmt: skip
    counted = Pairs()
    for _ in range(300):
        one, other, second = (answer([kinds[place]]) for place in random.integers(0, len(kinds), 3))
        counted.add(one, other if random.random() < 0.9 else FAILED, second if random.random() < 0.5 else None)
    figures = counted.figures()
    agree, again = figures["agree"], figures["again"]
    assert again["differ"] <= again["both"]
    assert agree["same"] + agree["form"] <= agree["rows"]
    assert max(agree["outside"], agree["candidate_mode"], agree["own_mode"]) <= agree["rows"]
    assert all(-20 <= int(place) <= 20 for name in ("gaps", "gaps_again") for place in figures[name])
    assert all(type(count) is int for part in figures.values() for count in part.values())


# ---------------------------------------------------------------------------------------------- one client, one request


def test_one_extreme_number_changes_neither_the_spread_nor_the_range() -> None:
    """A client sends one request with which a linear model answers 1e12."""
    own = np.random.default_rng(SEED).normal(10.0, 1.0, 300)
    figures = pairs([*own, 1e12], [*100 * own, 1e14])
    assert figures["agree"]["same"] == 0, "a hundred times the answer is not the same"
    assert figures["agree"]["outside"] == 301


def test_a_few_other_numbers_are_the_spread_if_nearly_all_are_equal() -> None:
    own = [0.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0]
    agree = pairs(own, [value + 0.001 for value in own])["agree"]
    assert (agree["same"], agree["outside"]) == (100, 2), "0.001 is little beside the others; 4 and 5 are extremes"


def test_one_answer_that_is_no_distribution_makes_no_numbers_of_the_others() -> None:
    """A client sends one row with NaN, for which the model has no probabilities."""
    own = np.random.default_rng(SEED).random(300)
    probabilities, nan = np.stack([own, 1 - own], axis=1), [[np.nan, np.nan]]
    figures = pairs([*probabilities, *nan], [*probabilities[:, ::-1], *nan])
    assert (figures["agree"]["rows"], figures["agree"]["same"]) == (301, 1), "each class changes; NaN equals itself"
    assert figures["gaps"] == {"-20": 1}
