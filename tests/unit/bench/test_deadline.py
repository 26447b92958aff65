"""Computations of the benchmark with a deadline, whose errors would otherwise go unnoticed."""

from __future__ import annotations

from bench.serving import openloop
from bench.serving.deadline import RATE, SECONDS, figures, own_p99


def test_the_servers_own_p99_is_a_bound_of_its_histogram() -> None:
    counts = {"0.001": 980, "0.002": 989, "0.003": 991, "+Inf": 1000}
    name = "mlmodel_request_duration_seconds"
    lines = [f'{name}_bucket{{le="{bound}",version="v2"}} {count}' for bound, count in counts.items()]
    assert own_p99("\n".join([f"# TYPE {name} histogram", *lines, f"{name}_count 1000"])) == 0.003


def test_figures_are_medians_over_the_rounds_and_of_all_requests_that_were_sent() -> None:
    sent = RATE * SECONDS
    rounds = [
        openloop.Tally(in_time=in_time, accepted_p50=p50, accepted_p99=p99, lag_p99=0.1)
        for in_time, p50, p99 in ((sent, 0.3, 0.7), (sent // 2, 0.5, 9.0), (sent, 0.4, 0.8))
    ]
    assert figures(rounds) == [0.4, 0.8, 100.0, 0.1]
