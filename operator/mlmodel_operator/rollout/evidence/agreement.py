"""The agreement gate: whether the candidate's answers are like those of stable, of one row of each pair.

Another version gives other answers, so by default only the absurd is stopped:

* **form**: more than half of the answers have outputs of other names, types or shapes;
* **labels**: more than half of the labels change;
* **range**: more than half of the numbers are outside stable's range, extended by its spread;
* **constant**: the candidate gives one answer to everything, and stable does not.

``minPercent`` is a limit of the user for the share of answers that agree: equal labels, or numbers that differ by at
most a tenth of stable's spread. A model that is not deterministic differs from itself: the share of requests for which
stable gives two different answers is added to what may change.
"""

from __future__ import annotations

import math

from mlmodel_operator.api.evidence import Again, Agreement, Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import AgreementGate
from mlmodel_operator.rollout.evidence import share
from mlmodel_operator.rollout.evidence.errors import Verdict, evidence_of

_SAME_GAP, _OTHER_GAP = -4, -2
"""Bins of gaps up to which a number is certainly the same, and from which on it is certainly another. The limit, a
tenth of stable's spread, is in the bin between them."""
_MOST_SAME = 0.8
"""Share of stable's numbers that may be the same one: with more, as when one request is sent again and again, they have
no spread and no range."""
_LEAST_OTHER = 0.25
"""Part of the share of stable's less frequent answers that the candidate must have, so as not to be constant."""


def judge_form(pairs: Pairs) -> Verdict:
    """Return the evidence that most answers have another form."""
    agree = pairs.agree
    return Verdict(
        evidence_of(share.above(agree.form, agree.rows, 0.5)),
        Reason.OTHER_FORM,
        f"{agree.form} of {agree.rows} answers to repeated requests have outputs of other names, types or shapes than"
        " those of stable",
    )


def judge(pairs: Pairs, gate: AgreementGate) -> Verdict:
    """Return the strongest evidence that the answers are too different."""
    verdicts = (_judge_agreement(pairs, gate), _judge_range(pairs), _judge_constant(pairs))
    return max(verdicts, key=lambda item: item.against)


def _judge_agreement(pairs: Pairs, gate: AgreementGate) -> Verdict:
    if gate.min_percent is not None:
        agree, again = pairs.agree, pairs.again
        may_change, rule = 1.0 - gate.min_percent / 100.0, f"at least {gate.min_percent:g} % must"
    else:
        # By how much a number may change is for the user to decide.
        agree, again = _labels(pairs)
        may_change, rule = 0.5, "at least half must"
    # Of the answers that stable repeats, this part may change; the others change with any model.
    noise = share.upper(again.differ, again.both)
    changed = agree.rows - agree.same
    log = share.above(changed, agree.rows, noise + (1.0 - noise) * may_change)
    if gate.min_percent is None and pairs.agree.own_mode == pairs.agree.rows:
        log = 0.0  # one request that is sent again and again shows one difference, however often it is repeated
    return Verdict(evidence_of(log), Reason.OTHER_ANSWERS, f"only {_agreeing(pairs, agree)}; {rule}")


def _labels(pairs: Pairs) -> tuple[Agreement, Again]:
    """Return the part of the counts that is about labels. A client may have asked for another output, with numbers:
    that must not take the labels of all others out of the test.

    Only the numbers have gaps. Of one gap it is not known whether it counts as the same: then the number of labels that
    changed is the least that is possible, and the noise the largest.
    """
    agree, again = pairs.agree, pairs.again
    if not has_numbers(pairs):
        return agree, again
    rows = max(agree.rows - agree.form - sum(pairs.gaps.values()), 0)
    same = agree.same - sum(number for name, number in pairs.gaps.items() if int(name) <= _SAME_GAP)
    both = max(again.both - sum(pairs.gaps_again.values()), 0)
    differ = again.differ - sum(number for name, number in pairs.gaps_again.items() if int(name) >= _OTHER_GAP)
    return Agreement(rows, min(max(same, 0), rows)), Again(both, min(max(differ, 0), both))


def _judge_range(pairs: Pairs) -> Verdict:
    outside = pairs.agree.outside
    numbers = sum(pairs.gaps.values()) or pairs.agree.rows  # labels are in no range, and must not hide the numbers
    has_range = pairs.agree.own_mode <= _MOST_SAME * pairs.agree.rows
    return Verdict(
        evidence_of(share.above(outside, numbers, 0.5)) if has_range else 1.0,
        Reason.OTHER_ANSWERS,
        f"{outside} of {numbers} answers to repeated requests are far outside the range of stable's",
    )


def _judge_constant(pairs: Pairs) -> Verdict:
    agree = pairs.agree
    log = 0.0
    if agree.rows:
        others = agree.rows - agree.own_mode
        least = max(others - 2.0 * math.sqrt(others), 0.0) / agree.rows
        # A few other answers change nothing: a client could look for an input for which there is one.
        log = share.above(agree.candidate_mode, agree.rows, 1.0 - _LEAST_OTHER * least)
    return Verdict(
        evidence_of(log),
        Reason.OTHER_ANSWERS,
        f"it gave the same answer to {'all ' if agree.candidate_mode == agree.rows else f'{agree.candidate_mode} of '}"
        f"{agree.rows} repeated requests, and stable gave its most frequent one to {agree.own_mode}",
    )


def has_numbers(pairs: Pairs) -> bool:
    """Whether the answers are numbers, not labels."""
    return bool(pairs.gaps)


def figures(pairs: Pairs) -> str:
    """Return how many answers agree, as a clause for messages."""
    return _agreeing(pairs, pairs.agree)


def _agreeing(pairs: Pairs, agree: Agreement) -> str:
    within = " within a tenth of stable's spread" if agree is pairs.agree and has_numbers(pairs) else ""
    return f"{agree.same} of {agree.rows} answers agree{within}"
