"""The gates on the time and the answers of pairs, and their order."""

from __future__ import annotations

import pytest

from mlmodel_operator.api.evidence import Again, Agreement, Outcomes, Pairs, Repeated
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import AgreementGate, Gates, LatencyGate
from mlmodel_operator.rollout.evidence import agreement, chain, latency, share

# -------------------------------------------------------------------------------------------------------------- latency


def test_a_ratio_counts_as_slower_if_its_whole_bin_is() -> None:
    """Bin 8 contains 1.44 to 1.51 times, and bin 9 1.51 to 1.59."""
    gate = LatencyGate(max_increase_percent=50)
    assert not latency.judge(Pairs(ratios={"8": 1000}), gate).is_decisive
    verdict = latency.judge(Pairs(ratios={"9": 30, "0": 2}), gate)
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.SLOWER_THAN_STABLE)
    assert verdict.message == (
        "it was more than 50 % slower than stable for 30 of 32 repeated requests, and its median prediction time is"
        " 1.55 times that of stable"
    )


def test_slow_outliers_do_not_reject_but_exceed_a_budget() -> None:
    """One of ten predictions takes 110 ms instead of 1 ms."""
    found = Pairs(ratios={"0": 900, "100": 100}, times={"72": 900, "122": 100}, own_times={"72": 1000})
    assert not latency.judge(found, LatencyGate()).is_decisive
    verdict = latency.judge(found, LatencyGate(max_milliseconds=20))
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.ABOVE_MAX_MILLISECONDS)
    assert verdict.message == "its prediction took longer than 20 ms for 100 of 1000 repeated requests; at most 1 % may"
    assert not latency.judge(found, LatencyGate(max_milliseconds=200)).is_decisive
    assert not latency.judge(found, LatencyGate(max_milliseconds=20, percentile=90)).is_decisive


def test_a_budget_that_stable_exceeds_as_often_rejects_nobody() -> None:
    found = Pairs(times={"72": 900, "122": 100}, own_times={"72": 905, "122": 95})
    assert not latency.judge(found, LatencyGate(max_milliseconds=20)).is_decisive


def test_without_times_there_is_no_evidence() -> None:
    assert latency.judge(Pairs(), LatencyGate(max_milliseconds=1)).against == 1.0
    assert latency.median_ratio(Pairs()) is None


# ------------------------------------------------------------------------------------------------------------ agreement


def rows(rows: int, **counts: int) -> Pairs:
    """Return pairs with these answers, of a stable that answers the same request in the same way."""
    return Pairs(agree=Agreement(rows=rows, **counts), again=Again(100))


def test_labels_of_which_most_change_are_stopped_and_numbers_only_on_request() -> None:
    swapped = rows(20, same=0, own_mode=10, candidate_mode=10)
    verdict = agreement.judge(swapped, AgreementGate())
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.OTHER_ANSWERS)
    assert verdict.message == "only 0 of 20 answers agree; at least half must"
    numbers = Pairs(
        agree=Agreement(rows=1000, same=100, own_mode=1, candidate_mode=1), gaps={"0": 1000}, again=Again(100)
    )
    assert not agreement.judge(numbers, AgreementGate()).is_decisive
    assert agreement.judge(numbers, AgreementGate(min_percent=50)).message == (
        "only 100 of 1000 answers agree within a tenth of stable's spread; at least 50 % must"
    )
    assert agreement.judge(numbers, AgreementGate(min_percent=50)).is_decisive


@pytest.mark.parametrize(("same", "minimum", "stopped"), [(990, 95, False), (870, 95, True), (998, 100, False)])
def test_a_minimum_is_tighter(same: int, minimum: float, stopped: bool) -> None:
    found = rows(1000, same=same, own_mode=500, candidate_mode=500)
    assert agreement.judge(found, AgreementGate(minimum)).is_decisive == stopped


def test_with_a_minimum_of_zero_any_label_may_change() -> None:
    assert not agreement.judge(rows(1000, own_mode=500, candidate_mode=500), AgreementGate(0)).is_decisive


def test_a_model_that_differs_from_itself_may_differ_as_much() -> None:
    """Stable's own answers agree for 30 %, and those of the candidate with them for 30 %."""
    found = Pairs(agree=Agreement(rows=1000, same=300, own_mode=300, candidate_mode=300), again=Again(100, 70))
    assert not agreement.judge(found, AgreementGate()).is_decisive
    assert not agreement.judge(found, AgreementGate(95)).is_decisive
    steady = Pairs(agree=found.agree, again=Again(100, 0))
    assert agreement.judge(steady, AgreementGate()).is_decisive


def test_without_a_repetition_any_half_of_the_answers_may_be_noise() -> None:
    few = Agreement(rows=3, same=0, own_mode=2, candidate_mode=2)
    assert agreement.judge(Pairs(agree=few, again=Again(1000)), AgreementGate(100)).is_decisive
    assert not agreement.judge(Pairs(agree=few), AgreementGate(100)).is_decisive
    assert not agreement.judge(Pairs(agree=few, again=Again(3)), AgreementGate(100)).is_decisive


def test_numbers_outside_the_range_of_stable_are_stopped() -> None:
    """Such as prices in cents."""
    verdict = agreement.judge(
        Pairs(agree=Agreement(rows=30, outside=28, own_mode=1, candidate_mode=1), gaps={"20": 30}), AgreementGate(0)
    )
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.OTHER_ANSWERS)
    assert verdict.message == "28 of 30 answers to repeated requests are far outside the range of stable's"


def test_an_answer_that_has_become_constant_is_stopped() -> None:
    verdict = agreement.judge(rows(100, same=50, candidate_mode=100, own_mode=50), AgreementGate())
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.OTHER_ANSWERS)
    assert verdict.message == (
        "it gave the same answer to all 100 repeated requests, and stable gave its most frequent one to 50"
    )
    # Not if it has not, if stable's is constant too, or nearly so.
    assert not agreement.judge(rows(100, same=50, candidate_mode=99, own_mode=50), AgreementGate()).is_decisive
    assert not agreement.judge(rows(5000, same=5000, candidate_mode=5000, own_mode=5000), AgreementGate()).is_decisive
    assert not agreement.judge(rows(5000, same=4964, candidate_mode=5000, own_mode=4964), AgreementGate()).is_decisive


def test_another_form_of_all_answers_is_stopped() -> None:
    verdict = agreement.judge_form(rows(14, form=14))
    assert (verdict.is_decisive, verdict.reason) == (True, Reason.OTHER_FORM)
    assert verdict.message == (
        "14 of 14 answers to repeated requests have outputs of other names, types or shapes than those of stable"
    )
    assert not agreement.judge_form(rows(1000, same=500, form=500)).is_decisive


# ---------------------------------------------------------------------------------------------------------------- chain

BAD = Pairs(
    pairs=Outcomes(100, 50),
    agree=Agreement(rows=100, form=100),
    ratios={"15": 100},
)


def test_the_first_gate_that_rejects_gives_the_reason_and_an_accepted_one_is_passed() -> None:
    expected: list[tuple[tuple[chain.Gate, ...], Reason | None]] = [
        ((), Reason.REHEARSAL_ERRORS),
        (("errors",), Reason.OTHER_FORM),
        (("errors", "form"), Reason.SLOWER_THAN_STABLE),
        (("errors", "form", "latency"), Reason.OTHER_ANSWERS),
        (chain.GATES, None),
    ]
    for accepted, reason in expected:
        verdict = chain.judge(BAD, Gates(), accepted)
        assert (verdict and verdict.reason) == reason


def test_time_decides_only_after_some_seconds() -> None:
    slow = Pairs(ratios={"15": 100})
    assert chain.judge(slow, Gates(), seconds=latency.LEAST_SECONDS - 0.1) is None
    verdict = chain.judge(slow, Gates(), seconds=latency.LEAST_SECONDS)
    assert verdict
    assert verdict.reason is Reason.SLOWER_THAN_STABLE


def test_nothing_rejects_without_pairs() -> None:
    assert chain.judge(Pairs(), Gates()) is None
    assert {verdict.against for verdict in chain.verdicts(Pairs(), Gates()).values()} == {1.0}


GOOD = Pairs(
    pairs=Outcomes(1000),
    again=Again(100, 2),
    agree=Agreement(rows=1000, same=998, own_mode=600, candidate_mode=601),
    ratios={"-1": 800, "3": 200},
)


def test_the_summary_is_one_sentence() -> None:
    assert chain.summary(GOOD, 0.61, stable="v1", candidate="v2") == (
        "1000 different requests of v1 were repeated: 0 failed only on v2, 998 of 1000 answers agree, median time 0.95"
        " times; proven to fail at most 0.61 percentage points more"
    )
    mixed = Pairs(pairs=Outcomes(3, 1, 2, 4))
    assert chain.summary(mixed, None, stable="v1", candidate="v2") == (
        "10 different requests of v1 were repeated: 1 failed only on v2, 2 only on v1, 4 on both"
    )
    assert chain.summary(Pairs(), None, stable="v1", candidate="v2") == "No request of v1 was repeated on v2"


def test_the_figures_are_those_of_the_summary() -> None:
    assert chain.figures(GOOD, 0.61) == Repeated(
        requests=1000,
        compared=1000,
        agree=998,
        stable_agrees_percent=98.0,
        median_time_ratio=0.95,
        certified_percent=0.61,
    )
    assert chain.figures(Pairs(), None) == Repeated()
    timed = chain.figures(Pairs(times={"80": 9, "90": 2}, own_times={"72": 11}), None)
    assert (timed.median_milliseconds, timed.stable_median_milliseconds) == (2.05, 0.956)


# ---------------------------------------------------------------------------------------------------------------- share


def test_a_median_is_that_of_all_numbers() -> None:
    assert share.median({"10": 1, "-3": 2, "2": 2}) == 2
    assert share.median({}) is None


# ------------------------------------------------------------------------------------------ one client, a few requests


@pytest.mark.attack(held=True)
def test_numbers_that_a_client_asks_for_do_not_hide_labels_that_change() -> None:
    """All labels change; some requests ask for the scores of the classes, which are the same."""
    asked = Pairs(agree=Agreement(330, same=30, own_mode=170, candidate_mode=170), again=Again(30), gaps={"-20": 30})
    verdict = agreement.judge(asked, AgreementGate())
    assert verdict.is_decisive
    assert verdict.message == "only 0 of 300 answers agree; at least half must"


def test_numbers_that_differ_are_no_labels_that_change() -> None:
    """Labels agree, and all numbers are others: which of them are the same is not known of each bin."""
    found = Pairs(
        agree=Agreement(400, same=110, own_mode=60, candidate_mode=60),
        again=Again(40, differ=20),
        gaps={"-3": 50, "1": 250},
        gaps_again={"-3": 10, "1": 15},
    )
    assert not agreement.judge(found, AgreementGate()).is_decisive


def test_answers_of_another_form_are_no_labels_that_change() -> None:
    """A model of numbers, of which two fifths have another form: the gate on the form is for them."""
    found = Pairs(agree=Agreement(500, same=300, own_mode=1, candidate_mode=1, form=200), gaps={"-20": 300})
    assert not agreement.judge(found, AgreementGate()).is_decisive


@pytest.mark.attack(held=True)
def test_labels_that_a_client_asks_for_do_not_hide_numbers_outside_the_range() -> None:
    found = Pairs(agree=Agreement(100, same=70, outside=30, own_mode=40, candidate_mode=40), gaps={"10": 30})
    assert agreement.judge(found, AgreementGate()).is_decisive


@pytest.mark.attack(held=True)
def test_one_other_answer_does_not_hide_a_constant_one() -> None:
    """A client has found an input for which the candidate gives another answer."""
    found = Pairs(agree=Agreement(300, same=181, own_mode=180, candidate_mode=299))
    verdict = agreement.judge(found, AgreementGate())
    assert verdict.is_decisive
    assert verdict.message.startswith("it gave the same answer to 299 of 300 repeated requests")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "agree",
    [
        Agreement(rows=500, outside=500, own_mode=500, candidate_mode=500),
        Agreement(rows=500, outside=500, own_mode=450, candidate_mode=450),
    ],
    ids=["all", "most"],
)
def test_one_request_that_is_sent_again_and_again_shows_no_range(agree: Agreement) -> None:
    assert not agreement.judge(Pairs(agree=agree, gaps={"20": 500}), AgreementGate()).is_decisive


def test_one_label_that_changed_is_not_many() -> None:
    one = Pairs(agree=Agreement(rows=500, same=0, own_mode=500, candidate_mode=500))
    assert not agreement.judge(one, AgreementGate()).is_decisive
    several = Pairs(agree=Agreement(rows=500, same=0, own_mode=300, candidate_mode=300), again=Again(100))
    assert agreement.judge(several, AgreementGate()).is_decisive
