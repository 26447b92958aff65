"""Metrics: any worker returns the counts of all workers, and no count is lost when a worker dies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.exposition import Exposition
from mlmodel_server.observe.families import ModelInfo, gauge
from mlmodel_server.observe.metrics import PENDING, Recorder
from mlmodel_server.observe.processes import Processes

IDENTITY = Identity("tumour", "v2", "3f9c2a1b")
LABELS = IDENTITY._asdict()


def recorder(slots: int = 1) -> Recorder:
    made = Recorder(IDENTITY, slots)
    made.start()
    return made


def in_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a forked process, like a worker, and wait for its exit."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def samples(of: Recorder | list[Metric], **labels: str) -> dict[str, float]:
    """Return the samples with ``labels``, by name and by their other labels."""
    families = list(plain(of.text()[0].decode())) if isinstance(of, Recorder) else of
    found = {}
    for family in families:
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                rest = {key: value for key, value in sample.labels.items() if key not in {**labels, **LABELS}}
                found[" ".join([sample.name, *rest.values()])] = sample.value
    return found


def test_any_worker_returns_the_counts_of_all() -> None:
    shared = Recorder(IDENTITY, 3)

    def work(slot: int, codes: list[int]) -> None:
        shared.start(slot)
        for code in codes:
            shared.record_response(code, 0.001, rows=1)
        shared.fold()

    in_child(lambda: work(1, [200, 200, 503]))
    in_child(lambda: work(2, [200, 400]))
    work(0, [200, 500])
    responses = {name: count for name, count in samples(shared).items() if name.startswith("mlmodel_requests_total")}
    assert responses == {
        "mlmodel_requests_total 200": 4,
        "mlmodel_requests_total 400": 1,
        "mlmodel_requests_total 500": 1,
        "mlmodel_requests_total 503": 1,
    }
    assert samples(shared)["mlmodel_request_duration_seconds_count"] == 7
    assert samples(shared)["mlmodel_rows_total"] == 7


def test_before_the_first_request_no_response_is_counted() -> None:
    assert not any(count for name, count in samples(recorder()).items() if name.startswith("mlmodel_requests_total"))


def test_the_successor_of_a_dead_worker_keeps_the_counts_and_resets_the_gauges() -> None:
    shared = Recorder(IDENTITY, 2)
    shared.start(0)

    def work(in_flight: int) -> None:
        shared.start(1)
        shared.in_flight, shared.queued = in_flight, in_flight
        shared.record_response(200, 0.001)
        shared.fold()

    in_child(lambda: work(5))
    seen = samples(shared)
    assert (seen["mlmodel_requests_in_flight"], seen["mlmodel_queue_length"]) == (5, 5)
    assert seen["mlmodel_worker_restarts_total"] == 0
    in_child(lambda: shared.start(1))
    seen = samples(shared)
    assert seen["mlmodel_requests_total 200"] == 1
    assert (seen["mlmodel_requests_in_flight"], seen["mlmodel_queue_length"]) == (0, 0)
    assert seen["mlmodel_worker_restarts_total"] == 1


def test_times_have_histograms_and_a_bound_belongs_to_its_bucket() -> None:
    made = recorder()
    made.record_response(200, total=0.001, queue=0.00005, compute=0.0002, rows=3)
    made.record_response(200, total=0.0010001, queue=0.00006, compute=20.0, rows=1)
    made.record_response(400, total=0.00004)  # rejected before the model
    seen = samples(made)
    name = "mlmodel_request_duration_seconds_bucket"
    assert [seen[f"{name} {le}"] for le in ("5e-05", "0.0005", "0.001", "0.002", "+Inf")] == [1, 1, 2, 3, 3]
    assert seen["mlmodel_request_duration_seconds_sum"] == pytest.approx(0.0020401)
    assert [seen[f"mlmodel_queue_seconds_bucket {le}"] for le in ("5e-05", "7.5e-05", "+Inf")] == [1, 2, 2]
    assert [seen[f"mlmodel_compute_seconds_bucket {le}"] for le in ("0.00015", "0.00025", "10.0", "+Inf")] == [
        0,
        1,
        1,
        2,
    ]
    assert seen["mlmodel_rows_total"] == 4


def test_the_digest_of_the_loaded_model_is_a_label() -> None:
    made = Recorder(IDENTITY, collectors=[ModelInfo(IDENTITY, "9f2c")])
    made.start()
    assert samples(made, **LABELS)["mlmodel_model_info 9f2c"] == 1


def test_batches_are_counted_by_size_and_shed_requests_by_reason() -> None:
    made = recorder()
    for rows in (1, 1, 64, 65):
        made.record_batch(rows)
    for reason in ("queue_full", "deadline", "deadline", "unknown reason"):
        made.record_shed(reason)
    seen = samples(made)
    assert [seen[f"mlmodel_batch_rows_bucket {le}"] for le in ("1.0", "32.0", "64.0", "128.0")] == [2, 2, 3, 4]
    assert seen["mlmodel_batch_rows_sum"] == 131
    assert {key: value for key, value in seen.items() if key.startswith("mlmodel_shed_total")} == {
        "mlmodel_shed_total queue_full": 1,
        "mlmodel_shed_total deadline": 2,
        "mlmodel_shed_total memory": 0,
        "mlmodel_shed_total drain": 0,
        "mlmodel_shed_total other": 1,
    }


def test_many_records_are_counted_without_a_scrape() -> None:
    made = recorder()
    for _ in range(PENDING + 1):
        made.record_response(200, 0.001)
    assert len(made._requests) == 1
    for _ in range(3):
        made.record_predictions(np.zeros((PENDING // 2, 2)), None, PENDING // 2)
    assert len(made._predicted) == 1


def test_records_of_other_threads_during_a_count_are_not_lost() -> None:
    made = recorder()

    def record() -> None:
        for _ in range(5000):
            made.record_batch(1)
            made.record_predictions(None, np.zeros(1), 1)
            made.record_response(200, 0.001, rows=1)

    threads = [threading.Thread(target=record) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        made.fold()
    seen = samples(made)
    assert seen["mlmodel_requests_total 200"] == seen["mlmodel_batch_rows_count"] == 15000


class Busy(list[Any]):
    """A list that grows while it is read, as if by another thread."""

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        self.append(self[-1] if not isinstance(key, slice) else taken[0])
        return taken


def test_a_record_during_a_count_is_counted_next() -> None:
    made = recorder()
    made.record_response(200, 0.001)
    made._requests = Busy(made._requests)
    made.fold()
    assert len(made._requests) == 1
    assert samples(made)["mlmodel_requests_total 200"] >= 2


def test_openmetrics_is_returned_on_request() -> None:
    made = recorder()
    made.record_response(200, 0.001)
    body, kind = made.text("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert families["mlmodel_requests"].samples[0].value == 1
    assert made.text("text/html")[1].startswith("text/plain")


def test_selecting_one_sample_returns_its_family_only() -> None:
    class Costly:
        def collect(self) -> list[Metric]:
            raise AssertionError("this family is not selected")

    made = Recorder(IDENTITY, collectors=[Costly()])
    made.start()
    made.record_response(200, 0.001)
    body, _ = made.text(names=["mlmodel_requests_total"])
    assert body.decode().splitlines() == [
        "# HELP mlmodel_requests_total Inference requests by HTTP status; gRPC requests by the HTTP status that "
        "corresponds to their code.",
        "# TYPE mlmodel_requests_total counter",
        'mlmodel_requests_total{code="200",model="tumour",revision="3f9c2a1b",version="v2"} 1.0',
    ]
    both, _ = made.text(names=["mlmodel_requests_in_flight", "mlmodel_rows_total"])
    assert {family.name for family in plain(both.decode())} == {"mlmodel_requests_in_flight", "mlmodel_rows"}
    assert recorder().text(names=["mlmodel_nothing"])[0] == b""


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_never_decreases_and_energy_follows_it() -> None:
    # Linux counts user and system time in ticks of 10 ms each, so a difference of two readings is up to 20 ms short.
    burn(0.1)  # like loading a model
    shared = Recorder(IDENTITY, 2, watts_per_core=7.0)
    shared.start(0)

    def work() -> None:
        shared.start(1)
        burn(0.1)
        assert samples(shared)["mlmodel_cpu_seconds_total"] >= 0.07

    in_child(work)
    seen = samples(shared)
    assert seen["mlmodel_cpu_seconds_total"] >= 0.07, "the CPU time of an exited worker still counts"
    assert seen["mlmodel_energy_joules_estimated_total 7.0"] == pytest.approx(7 * seen["mlmodel_cpu_seconds_total"])
    assert seen["process_cpu_seconds_total"] >= seen["mlmodel_cpu_seconds_total"] + 0.07


def test_memory_of_all_processes_counts_shared_pages_once() -> None:
    ballast = np.ones(8 << 20)  # 64 MiB, shared by parent and child
    shared = Recorder(IDENTITY, 2)
    own = Processes()
    alone = samples(list(own.collect(own.read([]))))

    def work() -> None:
        shared.start(1)
        both = samples(shared)
        assert both["process_resident_memory_bytes"] > alone["process_resident_memory_bytes"] + ballast.nbytes
        assert both["mlmodel_memory_bytes"] < alone["mlmodel_memory_bytes"] + ballast.nbytes / 2
        assert both["process_open_fds"] >= 3
        assert both["process_max_fds"] >= both["process_open_fds"]

    in_child(work)
    assert abs(alone["process_start_time_seconds"] - time.time()) < 60


def test_a_process_of_another_program_is_not_counted(tmp_path: Path) -> None:
    def stat(pid: int, parent: int, ticks: int) -> None:
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        numbers = [parent, *[0] * 9, ticks, ticks, 100, 200, *[0] * 5, 4096, 1]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) name) S {' '.join(map(str, numbers))}")

    me, child, stranger = os.getpid(), 10, 11
    stat(me, 1, 50)
    stat(child, me, 25)
    stat(stranger, 1, 9999)
    ticks = os.sysconf("SC_CLK_TCK")
    processes = Processes(tmp_path)
    found = processes.read([child, stranger, 12])
    assert processes.cpu_seconds(found) == pytest.approx((100 + 300 + 50) / ticks)


def test_without_proc_there_are_no_process_metrics(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    assert processes.read([]) == []
    assert list(processes.collect([])) == []


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1"])
def test_the_text_is_that_of_the_library_also_when_values_change(accept: str) -> None:
    nasty = gauge("mlmodel_nasty", 'Help with \\ and\nmore "lines".', "text")
    values = iter([[1.0, float("inf"), 2e6, 1e-9], [2.0, float("nan"), 0.1, -3.0]])

    class Nasty:
        def collect(self) -> list[Metric]:
            nasty.samples = []
            for text, value in zip(('a"b', "c\\d", "e\nf", "Köln {g}, h\u2028\x85\r"), next(values), strict=True):
                nasty.add_metric([*IDENTITY, text], value)
            return [nasty, *list(made._families())[:5]]

    class Now:
        def __init__(self, families: list[Metric]) -> None:
            self.families = families

        def collect(self) -> list[Metric]:
            return self.families

    made = recorder()
    exposition = Exposition()
    for code in (200, 500):
        made.record_response(code, 0.001, 0.0, 0.0005, 1)
        made.fold()
        families = Nasty().collect()
        encode, kind = choose_encoder(accept)
        assert exposition.page(families, accept) == (encode(Now(families)), kind)
