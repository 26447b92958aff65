"""A rehearsal between two running servers: stable's requests are sent to the candidate, and pairs are counted."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import grpc
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from hack.loopback import candidate_line, program
from hack.ports import free_port
from mlmodel_server.rehearsal.sender import TIMES
from mlmodel_server.rpc.proto import open_inference_pb2 as pb
from tests.integration.server.processes import SECONDS, Server, metric, running, until

STABLE = "aaaa"
REQUESTS = 40
PATIENCE = 5 * SECONDS
"""Maximum time to wait for a process with the lowest priority: beside six busy ones it sends a copy in 3 s."""
LONG = 2 * PATIENCE
MARK = 9.0
"""In the last column of each request of these tests, but not in the example with which a server checks its model."""

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Labels(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that takes 2 ms, or 20 ms if it is slow, with a fault. A path waits until there is such a file."""

    def __init__(self, fault: str = "", columns: int = 4) -> None:
        self.fault, self.columns = fault, columns
        self.classes_ = np.array(["cat", "dog"])
        self.n_features_in_ = columns

    def fit(self, X: Any, y: Any) -> Labels:
        return self

    def predict(self, X: Any) -> Any:
        X = np.asarray(X)
        labels = self.classes_[(X[:, 0] > 0).astype(int)]
        time.sleep(0.02 if self.fault == "slow" else 0.002)
        if X[0, -1] != MARK:
            return labels
        if self.fault == "raise" or (self.fault == "fifth" and X[0, 1] % 5 == 0):
            raise ValueError("broken")
        if self.fault == "crash":
            os._exit(1)
        if self.fault == "hang":
            time.sleep(LONG)
        while self.fault.startswith("/") and not os.path.exists(self.fault):
            time.sleep(0.01)
        if self.fault == "swapped":
            return self.classes_[(X[:, 0] <= 0).astype(int)]
        if self.fault == "constant":
            return self.classes_[np.zeros(len(X), int)]
        if self.fault == "random":
            return np.random.default_rng().choice(self.classes_, len(X))
        return labels


class Numbers(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor, whose numbers can be in another unit."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.n_features_in_ = 4

    def fit(self, X: Any, y: Any) -> Numbers:
        return self

    def predict(self, X: Any) -> Any:
        return self.factor * np.asarray(X)[:, 0]


def saved(directory: Path, name: str, model: Any) -> tuple[str | Path, ...]:
    """Write a model, and return the options with which a server opens it."""
    path = directory / f"{name}.joblib"
    path.write_bytes(cloudpickle.dumps(model))
    return "--uri", path, "--trust", "unsafe", "--allow-unsafe"


def row(number: int) -> list[float]:
    """Return the features of a request: two thirds are dogs."""
    return [-1.0 if number % 3 == 0 else 1.0, float(number), 0.5, MARK]


@dataclass
class Stage:
    """Where revisions are, and the file that names the candidate."""

    directory: Path
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.directory / "rehearsal"

    def port(self, revision: str) -> int:
        return self.ports.setdefault(revision, free_port())

    def name(self, revision: str, nonce: str = "0") -> None:
        """Name the candidate, as kubelet replaces a file."""
        new = self.directory / "new"
        new.write_text(candidate_line(revision, nonce))
        new.replace(self.file)

    def options(self, revision: str) -> tuple[str | Path, ...]:
        return "--revision", revision, "--rehearsal", self.file, "--rehearsal-port", str(self.port(f"{revision}-page"))

    @contextlib.contextmanager
    def stable(self, *options: str | Path, revision: str = STABLE, **env: str) -> Iterator[Pod]:
        with running(*options, *self.options(revision), program=program(self.ports), **env) as server:
            yield Pod(server, self.port(f"{revision}-page"))

    @contextlib.contextmanager
    def candidate(self, revision: str, *options: str | Path) -> Iterator[Server]:
        with running(*options, *self.options(revision), "--port", str(self.port(revision))) as server:
            yield server


@dataclass
class Pod:
    """A server with the page of its rehearsals."""

    server: Server
    page_port: int

    def page(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/", timeout=SECONDS) as response:
            page: dict[str, Any] = json.loads(response.read())
        return page

    def until(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait for figures, and return them."""
        last: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal last
            last = self.page()
            return condition(last)

        try:
            until(holds, what, PATIENCE)
        except AssertionError:
            raise AssertionError(f"{what}: {last}") from None
        return last

    def rehearsed(self, revision: str, requests: int = REQUESTS) -> dict[str, Any]:
        """Wait until the candidate has been sent all requests."""
        done: Callable[[dict[str, Any]], bool] = lambda page: (page["candidate"], page["asked"]) == (revision, requests)  # noqa: E731
        return self.until(done, f"{requests} requests are sent to {revision}")

    def send(self, count: int = REQUESTS, first: int = 0, **headers: str) -> None:
        connection = self.server.connect()
        for number in range(first, first + count):
            body = json.dumps([row(number)])
            assert self.server.send("POST", "/predict", body, connection, **headers).status == 200
        connection.close()
        self.until(lambda page: page["kept"] == first + count, "the requests are kept")


def outcome(page: dict[str, Any]) -> tuple[int, ...]:
    """Both, candidate failed, own failed, both failed."""
    return tuple(page["pairs"].values())


def mean_ratio(page: dict[str, Any], name: str = "ratios") -> float:
    """The typical ratio of the times, as the median bin."""
    bins = sorted(int(place) for place, count in page[name].items() for _ in range(count))
    return float(1.05 ** bins[len(bins) // 2])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    made = Stage(tmp_path_factory.mktemp("rehearsal"))
    for name in ("same", "raise", "columns", "swapped", "constant", "slow", "fifth", "hang", "crash", "late", "later"):
        made.port(name)
    return made


@pytest.fixture(scope="module")
def stable(stage: Stage) -> Iterator[Pod]:
    """A stable version that has been sent requests. Each test names another candidate.

    A request may take so long that no test ends if the candidate may, too."""
    with stage.stable(*saved(stage.directory, STABLE, Labels()), "--timeout", str(LONG)) as pod:
        pod.send()
        yield pod


def rehearsed(stage: Stage, stable: Pod, revision: str, model: Any) -> dict[str, Any]:
    """Return the figures of a whole rehearsal."""
    with stage.candidate(revision, *saved(stage.directory, revision, model)):
        stage.name(revision)
        return stable.rehearsed(revision)


def test_the_same_model(stage: Stage, stable: Pod) -> None:
    with stage.candidate("same", *saved(stage.directory, "same", Labels())):
        stage.name("same")
        page = stable.until(lambda page: (page["candidate"], page["left"]) == ("same", 0), "nothing is left")
    assert outcome(page) == (REQUESTS, 0, 0, 0)
    assert page["agree"] == {
        "rows": REQUESTS, "same": REQUESTS, "outside": 0, "candidate_mode": 26, "own_mode": 26, "form": 0
    }  # fmt: skip
    assert page["again"]["differ"] == 0
    assert page["again"]["both"] >= 20
    assert sum(page["ratios"].values()) == TIMES - 5, "few requests are timed again"
    assert 1 / 3 < mean_ratio(page) < 3
    assert (page["revision"], page["left"], page["kept"]) == (STABLE, 0, REQUESTS)


def test_a_version_that_raises(stage: Stage, stable: Pod) -> None:
    page = rehearsed(stage, stable, "raise", Labels("raise"))
    assert outcome(page) == (0, REQUESTS, 0, 0)
    assert page["times"] == {}


def test_a_version_that_needs_another_column(stage: Stage, stable: Pod) -> None:
    assert outcome(rehearsed(stage, stable, "columns", Labels(columns=5))) == (0, REQUESTS, 0, 0)


def test_a_version_that_fails_a_fifth(stage: Stage, stable: Pod) -> None:
    page = rehearsed(stage, stable, "fifth", Labels("fifth"))
    assert outcome(page) == (32, 8, 0, 0)
    assert page["agree"]["rows"] == 32


def test_swapped_labels(stage: Stage, stable: Pod) -> None:
    page = rehearsed(stage, stable, "swapped", Labels("swapped"))
    assert outcome(page) == (REQUESTS, 0, 0, 0)
    assert page["agree"]["same"] == 0


def test_a_constant(stage: Stage, stable: Pod) -> None:
    agree = rehearsed(stage, stable, "constant", Labels("constant"))["agree"]
    assert (agree["same"], agree["candidate_mode"], agree["own_mode"]) == (14, REQUESTS, 26)


def test_ten_times_as_slow(stage: Stage, stable: Pod) -> None:
    page = rehearsed(stage, stable, "slow", Labels("slow"))
    assert outcome(page) == (REQUESTS, 0, 0, 0)
    assert mean_ratio(page) > 3, "what a call costs beside the 2 ms or 20 ms may be up to 7 ms"
    assert 1 / 3 < mean_ratio(page, "ratios_again") < 3


def test_a_version_that_hangs(stage: Stage, stable: Pod) -> None:
    with stage.candidate("hang", *saved(stage.directory, "hang", Labels("hang"))) as server:
        stage.name("hang")
        page = stable.until(lambda page: page["candidate"] == "hang" and outcome(page)[1] >= 3, "three failures")
        assert outcome(page) == (0, outcome(page)[1], 0, 0)
        for pid in (server.process.pid, *server.children()):  # else it drains until the predictions end
            os.kill(pid, signal.SIGKILL)


def test_a_version_that_crashes(stage: Stage, stable: Pod) -> None:
    with stage.candidate("crash", *saved(stage.directory, "crash", Labels("crash"))):
        stage.name("crash")
        page = stable.until(lambda page: page["candidate"] == "crash" and page["asked"] >= 3, "three failures")
        assert outcome(page) == (0, page["asked"], 0, 0)


def test_a_candidate_that_appears_late_and_another_one(stage: Stage, stable: Pod) -> None:
    stage.name("late")
    page = stable.until(lambda page: page["candidate"] == "late" and page["dropped"]["candidate"] > 2, "no candidate")
    assert outcome(page) == (0, 0, 0, 0)
    assert page["left"] >= REQUESTS - 1
    model = saved(stage.directory, "late", Labels())
    with stage.candidate("late", *model):
        assert outcome(stable.rehearsed("late")) == (REQUESTS, 0, 0, 0)
        stage.file.unlink()
        stable.until(lambda page: (page["candidate"], sum(outcome(page))) == ("", 0), "no rehearsal")
        with stage.candidate("later", *model):
            stage.name("later")
            page = stable.rehearsed("later")
            assert outcome(page) == (REQUESTS, 0, 0, 0)


def test_every_protocol(tmp_path: Path) -> None:
    """Each request gets from the candidate what stable answered."""
    stage = Stage(tmp_path)
    stage.port("bbbb")
    calls = {STABLE: str(free_port()), "bbbb": str(free_port())}
    model = saved(tmp_path, "model", Numbers())
    tensor = {"name": "input-0", "shape": [2, 4], "datatype": "FP64"}
    data = [*row(1), *row(2)]
    whole = json.dumps({"inputs": [{**tensor, "data": data}]})
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 64}}]}).encode()
    zipped: Any = gzip.compress(whole.encode())
    call = pb.ModelInferRequest(model_name="tumour", raw_input_contents=[np.array(data).tobytes()])
    call.inputs.add(name="input-0", datatype="FP64", shape=[2, 4])
    infer = "/v2/models/tumour/infer"
    with (
        stage.stable(*model, "--grpc-port", calls[STABLE]) as stable,
        stage.candidate("bbbb", *model, "--grpc-port", calls["bbbb"]),
    ):
        server = stable.server
        requests: tuple[tuple[str, Any, dict[str, Any]], ...] = (
            (infer, whole, {}),
            ("/predict?outputs=predict", json.dumps([row(1), row(2)]), {}),
            (infer, zipped, {"content_encoding": "gzip"}),
            (infer, head + np.array(data).tobytes(),
             {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}),
            ("/v1/models/tumour:predict", json.dumps({"instances": [row(1), row(2)]}), {}),
            ("/predict", json.dumps([row(1), row(2)]), {}),
            ("/invocations", json.dumps({"inputs": [row(1), row(2)]}), {}),
        )  # fmt: skip
        for path, body, headers in requests:
            answered = server.send("POST", path, body, **headers)
            assert answered.status == 200, answered.body
        assert server.send("POST", "/predict", "[[1]]").status == 400
        with grpc.insecure_channel(f"127.0.0.1:{calls[STABLE]}") as channel:
            method: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            assert pb.ModelInferResponse.FromString(method(call.SerializeToString(), timeout=SECONDS)).outputs
        stable.until(lambda page: page["kept"] == 9, "all are kept")
        stage.name("bbbb")
        page = stable.rehearsed("bbbb", 9)
        assert outcome(page) == (8, 0, 0, 1)
        assert page["agree"]["same"] == 8
        assert page["seen"] == 9, "a copy is not a request"


def test_numbers_in_another_unit(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.port("bbbb")
    with (
        stage.stable(*saved(tmp_path, "dollars", Numbers())) as stable,
        stage.candidate("bbbb", *saved(tmp_path, "cents", Numbers(100.0))),
    ):
        stable.send(20)
        stage.name("bbbb")
        page = stable.rehearsed("bbbb", 20)
    assert outcome(page) == (20, 0, 0, 0)
    assert (page["agree"]["same"], page["agree"]["outside"]) == (0, 20)
    assert sum(page["gaps"].values()) == 20
    assert min(map(int, page["gaps"])) > 5
    assert page["gaps_again"] == {"-20": page["again"]["both"]}


def test_a_stable_that_is_not_deterministic(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.port("bbbb")
    with (
        stage.stable(*saved(tmp_path, "one", Labels("random"))) as stable,
        stage.candidate("bbbb", *saved(tmp_path, "two", Labels("random"))),
    ):
        stable.send()
        stage.name("bbbb")
        page = stable.rehearsed("bbbb")
    assert page["again"]["differ"] >= 4, "half of some 22"
    assert 5 < page["agree"]["same"] < REQUESTS - 5


def test_api_keys(tmp_path: Path) -> None:
    """Copies need no key, only the same file of keys on both sides."""
    stage = Stage(tmp_path)
    stage.port("bbbb")
    stage.port("cccc")
    (tmp_path / "keys").write_text(f"shop: {hashlib.sha256(b'one').hexdigest()}\n")
    (tmp_path / "others").write_text(f"shop: {hashlib.sha256(b'two').hexdigest()}\n")
    model = saved(tmp_path, "model", Labels())
    with stage.stable(*model, "--api-keys", tmp_path / "keys") as stable:
        stable.send(20, x_api_key="one")
        with stage.candidate("bbbb", *model, "--api-keys", tmp_path / "keys"):
            stage.name("bbbb")
            assert outcome(stable.rehearsed("bbbb", 20)) == (20, 0, 0, 0)
        with stage.candidate("cccc", *model, "--api-keys", tmp_path / "others"):
            stage.name("cccc")
            page = stable.until(
                lambda page: page["candidate"] == "cccc" and page["dropped"]["candidate"] > 3, "dropped"
            )
            assert outcome(page) == (0, 0, 0, 0)
            assert (page["asked"], page["left"] + 1 >= 20) == (0, True)


def test_several_workers_and_two_pods_of_stable(tmp_path: Path) -> None:
    """Each pod has its requests and its page; the sample of a pod is that of all its workers."""
    stage = Stage(tmp_path)
    stage.port("bbbb")
    model = saved(tmp_path, "model", Labels())
    with (
        stage.stable(*model, "--workers", "2") as one,
        stage.stable(*model, revision="aaab") as other,
        stage.candidate("bbbb", *model),
    ):
        for number in range(30):  # a new connection for each: the kernel spreads them
            assert one.server.send("POST", "/predict", json.dumps([row(number)])).status == 200
        other.send(10)
        stage.name("bbbb")
        assert outcome(one.rehearsed("bbbb", 30)) == (30, 0, 0, 0)
        page = other.rehearsed("bbbb", 10)
        assert outcome(page) == (10, 0, 0, 0)
        other.send(5, first=10)
        assert other.rehearsed("bbbb", 15)["boot"] == page["boot"]


def test_a_model_that_each_worker_loads_after_the_fork(tmp_path: Path) -> None:
    """As a model of TensorFlow, or one that predicts on several threads."""
    stage = Stage(tmp_path)
    stage.port("bbbb")
    model = saved(tmp_path, "model", Labels())
    with stage.stable(*model, OMP_NUM_THREADS="2") as stable, stage.candidate("bbbb", *model):
        stable.send(10)
        stage.name("bbbb")
        assert outcome(stable.rehearsed("bbbb", 10)) == (10, 0, 0, 0)


def helper(server: Server) -> int:
    """The process of the rehearsal; 0 if there is none."""
    for pid in server.children():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "rehearsal":
                return pid
    return 0


def test_the_process_is_replaced_and_its_death_is_not_the_model_s(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.port("bbbb")
    model = saved(tmp_path, "model", Labels())
    with stage.stable(*model) as stable, stage.candidate("bbbb", *model):
        stable.send(20)
        stage.name("bbbb")
        boots = {stable.rehearsed("bbbb", 20)["boot"]}
        for number in range(6):  # more often than the workers might die
            pid = helper(stable.server)
            os.kill(pid, (signal.SIGKILL, signal.SIGSEGV)[number % 2])
            until(lambda: helper(stable.server) not in (0, pid), "another process runs", PATIENCE)  # noqa: B023
        until(lambda: reached(stable.page_port), "the page is back", PATIENCE)
        page = stable.until(lambda page: page["candidate"] == "bbbb", "the rehearsal goes on")
        assert (page["asked"], page["left"]) == (0, 0), "no request counts twice"
        assert page["boot"] not in boots
        stable.send(5, first=20)
        assert outcome(stable.rehearsed("bbbb", 5)) == (5, 0, 0, 0)
        log = stable.server.stop()
    assert "process of the rehearsal died and is replaced" in log
    assert "worker died" not in log
    assert stable.server.process.returncode == 0


def reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except OSError:
        return False
    return True


def test_it_ends_at_once_when_the_server_drains_and_keeps_no_port_open(tmp_path: Path) -> None:
    stage, end = Stage(tmp_path), tmp_path / "end"
    model = saved(tmp_path, STABLE, Labels(str(end)))
    with stage.stable(*model, "--timeout", str(LONG)) as stable, ThreadPoolExecutor(1) as pool:
        port, pid = stable.server.port, helper(stable.server)
        listening = Path(f"/proc/{pid}/fd")
        inodes = {os.readlink(listening / name) for name in os.listdir(listening)}
        own = {f"socket:[{line.split()[9]}]" for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
               if line.split()[1] == f"0100007F:{port:04X}" and line.split()[3] == "0A"}  # fmt: skip
        assert own, "the workers listen"
        assert not own & inodes, "and this process does not"
        busy = pool.submit(stable.server.send, "POST", "/predict", json.dumps([row(1)]))
        until(lambda: metric(stable.server, "mlmodel_requests_in_flight") == 1, "a request is in flight")
        stable.server.process.send_signal(signal.SIGTERM)
        until(lambda: not reached(stable.page_port), "the page has gone", PATIENCE)
        assert stable.server.process.poll() is None, "while the workers drain"
        end.touch()
        assert busy.result().status == 200
        assert stable.server.process.wait(SECONDS) == 0


def test_a_port_that_is_taken_stops_no_server(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    taken = socket.create_server(("127.0.0.1", stage.port(f"{STABLE}-page")))
    with taken, stage.stable("--uri", "builtin://iris") as stable:
        assert stable.server.send("GET", "/v2/health/ready").status == 200
        log = stable.server.stop()
    assert "give another --rehearsal-port or --host" in "".join(stable.server.log) + log
    assert stable.server.process.returncode == 0


def test_without_the_option_nothing_is_different() -> None:
    with running("--uri", "builtin://iris") as server:
        assert helper(server) == 0
        assert server.send("POST", "/rehearsal", "{}").status == 404
    port = free_port()
    options = ("--rehearsal", "/nowhere", "--rehearsal-requests", "0", "--rehearsal-port", str(port))
    with running("--uri", "builtin://iris", *options) as server:  # its process serves the page of labels only
        assert server.send("POST", "/rehearsal", "{}").status == 404
        with pytest.raises(urllib.error.HTTPError, match="404"):
            Pod(server, port).page()


def test_it_has_the_lowest_priority_and_little_memory_and_is_idle(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with stage.stable("--uri", "builtin://iris") as stable:
        stable.page()
        pid = helper(stable.server)
        assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16]) == 19
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024
        print(f"{own:.1f} MiB private")
        assert own < 10
