"""The latency gate: prediction times of the two versions for the same requests.

* **Increase**: at most half of the pairs are slower by more than ``maxIncreasePercent``. The test counts pairs, so it
  does not matter by how much a pair is slower: an outlier counts like any other. A node may be slow for some seconds,
  so nothing is decided before the pairs have lasted ``LEAST_SECONDS``.
* **Budget**: the candidate takes more than ``maxMilliseconds`` for at most the share of requests that ``percentile``
  leaves. While stable exceeds the budget too, for a larger share, that share is the limit.

The times are those of the prediction alone, without the wait for a CPU, for the network and for other requests. Half a
millisecond is added to each before they are compared, so that a tiny model may take twice as long as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlmodel_operator.api.evidence import Pairs
from mlmodel_operator.api.reasons import Reason
from mlmodel_operator.api.types import LatencyGate
from mlmodel_operator.rollout.evidence import share
from mlmodel_operator.rollout.evidence.errors import Verdict, evidence_of

RATIO, TIME = 1.05, 1.1
"""Bases of the bins: of the ratios, and of the times in microseconds."""
LEAST_SECONDS = 15.0
"""Time in seconds from the first pair until the gate may decide: pairs of a few milliseconds fall together into one
pause, one throttled period of a CPU quota, or the first moments of a process."""
LATE_SECONDS = 60.0
"""The same for pairs since a later moment: there are many such moments, and a node that is slow for a while must not
decide in one of them."""


def judge(pairs: Pairs, gate: LatencyGate) -> Verdict:
    """Return the stronger evidence of the two tests against the candidate."""
    verdict = _judge_increase(pairs, gate)
    if gate.max_milliseconds is None:
        return verdict
    return max(verdict, _judge_budget(pairs, gate, gate.max_milliseconds), key=lambda item: item.against)


def _judge_increase(pairs: Pairs, gate: LatencyGate) -> Verdict:
    edge = math.log1p(gate.max_increase_percent / 100.0) / math.log(RATIO)
    slower, number = share.beyond(pairs.ratios, edge), sum(pairs.ratios.values())
    return Verdict(
        evidence_of(share.above(slower, number, 0.5)),
        Reason.SLOWER_THAN_STABLE,
        f"it was more than {gate.max_increase_percent:g} % slower than stable for {slower} of {number} repeated"
        f" requests, and its median prediction time is {figure(pairs)} times that of stable",
    )


def _judge_budget(pairs: Pairs, gate: LatencyGate, milliseconds: float) -> Verdict:
    edge = math.log(1000.0 * milliseconds) / math.log(TIME)
    over, number = share.beyond(pairs.times, edge), sum(pairs.times.values())
    over_own = share.upper(share.beyond(pairs.own_times, edge), sum(pairs.own_times.values()))
    limit = max(1.0 - gate.percentile / 100.0, over_own)
    return Verdict(
        evidence_of(share.above(over, number, limit)),
        Reason.ABOVE_MAX_MILLISECONDS,
        f"its prediction took longer than {milliseconds:g} ms for {over} of {number} repeated requests; at most"
        f" {100 - gate.percentile:g} % may",
    )


def median_ratio(pairs: Pairs) -> float | None:
    """Return the candidate's median prediction time divided by that of stable; None without times."""
    found = share.median(pairs.ratios)
    return None if found is None else RATIO**found


def median_milliseconds(times: Mapping[str, int]) -> float | None:
    """Return the median of a histogram of times; None without times."""
    found = share.median(times)
    return None if found is None else float(f"{TIME**found / 1000.0:.3g}")


def figure(pairs: Pairs) -> str:
    """Return the median ratio for a sentence."""
    found = median_ratio(pairs)
    return "an unknown number of" if found is None else f"{found:.2f}"
