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

from mlmodel_operator.api.evidence import Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import AgreementGate
from mlmodel_operator.rollout.evidence import share
from mlmodel_operator.rollout.evidence.errors import LARGEST_LOG, Verdict

_LEAST_OTHER = 0.25
"""Part of the share of stable's less frequent answers that the candidate must have, so as not to be constant."""


def judge_form(pairs: Pairs) -> Verdict:
    """Return the evidence that most answers have another form."""
    agree = pairs.agree
    return Verdict(
        math.exp(min(share.above(agree.form, agree.rows, 0.5), LARGEST_LOG)),
        Reason.OTHER_FORM,
        f"{agree.form} of {agree.rows} answers to repeated requests have outputs of other names, types or shapes than"
        " those of stable",
    )


def judge(pairs: Pairs, gate: AgreementGate) -> Verdict:
    """Return the strongest evidence that the answers are too different."""
    verdicts = (_judge_agreement(pairs, gate), _judge_range(pairs), _judge_constant(pairs))
    return max(verdicts, key=lambda item: item.against)


def _judge_agreement(pairs: Pairs, gate: AgreementGate) -> Verdict:
    agree = pairs.agree
    if gate.min_percent is not None:
        may_change, rule = 1.0 - gate.min_percent / 100.0, f"at least {gate.min_percent:g} % must"
    else:
        # By how much a number may change is for the user to decide.
        may_change, rule = 1.0 if has_numbers(pairs) else 0.5, "at least half must"
    # Of the answers that stable repeats, this part may change; the others change with any model.
    noise = share.upper(pairs.again.differ, pairs.again.both)
    changed = agree.rows - agree.same
    log = share.above(changed, agree.rows, noise + (1.0 - noise) * may_change)
    return Verdict(math.exp(min(log, LARGEST_LOG)), Reason.OTHER_ANSWERS, f"only {figures(pairs)}; {rule}")


def _judge_range(pairs: Pairs) -> Verdict:
    agree = pairs.agree
    return Verdict(
        math.exp(min(share.above(agree.outside, agree.rows, 0.5), LARGEST_LOG)),
        Reason.OTHER_ANSWERS,
        f"{agree.outside} of {agree.rows} answers to repeated requests are far outside the range of stable's",
    )


def _judge_constant(pairs: Pairs) -> Verdict:
    agree = pairs.agree
    log = 0.0
    if agree.rows and agree.candidate_mode == agree.rows:
        others = agree.rows - agree.own_mode
        least = max(others - 2.0 * math.sqrt(others), 0.0) / agree.rows
        log = -agree.rows * math.log1p(-_LEAST_OTHER * least)
    return Verdict(
        math.exp(min(log, LARGEST_LOG)),
        Reason.OTHER_ANSWERS,
        f"it gave the same answer to all {agree.rows} repeated requests, and stable gave its most frequent one to"
        f" {agree.own_mode}",
    )


def has_numbers(pairs: Pairs) -> bool:
    """Whether the answers are numbers, not labels."""
    return bool(pairs.gaps)


def figures(pairs: Pairs) -> str:
    """Return how many answers agree, as a clause for messages."""
    within = " within a tenth of stable's spread" if has_numbers(pairs) else ""
    return f"{pairs.agree.same} of {pairs.agree.rows} answers agree{within}"
