"""Models from real storage servers: S3, Google Cloud Storage and a registry, also after a broken connection.

No message and no log line may contain a secret.
"""

from __future__ import annotations

import gzip
import http.client
import logging
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

from hack.go_programs import ORAS, program
from mlmodel_server import package
from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import locate, transfer
from mlmodel_server.manifest import MANIFEST, sha256
from tests.integration.server.storage import PASSWORD, USER, Cut, Service, gcs, registry, s3
from tests.unit.server.loading.test_archive import tar
from tests.unit.server.loglines import events
from tests.unit.server.models import iris, joblib_bytes

__all__ = ["gcs", "registry", "s3"]

SEED = 11
BIG = random.Random(SEED).randbytes(20_000_000)
CUT = 13_000_000
ANY = "0" * 64
VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "OCI_", "MLMODEL_", "HTTP", "HTTPS", "ALL_PROXY", "SSL_CERT")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Variables of this machine have no effect, retries do not wait, and no test logs the secret."""
    for name in os.environ:
        if name.upper().startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "PROGRESS_SECONDS", 0.0)
    caplog.set_level(logging.DEBUG)
    yield
    assert PASSWORD not in caplog.text


def s3_variables(service: Service, port: int = 0) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port or service.port}",
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "SSL_CERT_FILE": str(service.authority),
    }


def use(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def bucket(s3: Service) -> dict[str, bytes]:
    """The content of the bucket: a package, a bare file, an archive, a large file, an MLflow directory."""
    files = package.build(*iris())
    content = {f"iris/v1/{name}": data for name, data in files.items()}
    content |= {
        "bare/iris.joblib": joblib_bytes(iris()[0]),
        "packed/iris.tar.gz": gzip.compress(tar({f"iris/{name}": data for name, data in files.items()}), mtime=0),
        "big/model.onnx": BIG,
        "flow/MLmodel": b"flavors: {}",
        "flow/data/weights.bin": b"weights",
    }
    assert s3.authority is not None
    store = S3Store(
        "models",
        config={"endpoint": s3.url, "access_key_id": USER, "secret_access_key": PASSWORD},
        client_options={"root_certificate": s3.authority.read_bytes()},
    )
    for key, data in content.items():
        obstore.put(store, key, data)
    return content


@pytest.mark.parametrize("uri", ["s3://models/iris/v1", "s3://models/iris/v1/", f"s3://models/iris/v1/{MANIFEST}"])
def test_a_package_in_s3(s3: Service, bucket: Any, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, s3_variables(s3))
    digest = sha256(bucket[f"iris/v1/{MANIFEST}"])
    source = locate(uri, None, digest)
    assert source.names() == ("compiled.onnx", MANIFEST, "model.skops")
    assert load(source, digest).manifest is not None
    with pytest.raises(RefusedModel, match=rf"mlmodel\.json has sha256 {digest}, but {ANY} is required"):
        load(locate(uri, None, ANY), ANY)


def test_a_bare_file_an_archive_and_a_directory_in_s3(
    s3: Service, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_variables(s3))
    bare = sha256(bucket["bare/iris.joblib"])
    assert load(locate("s3://models/bare", None, bare), bare).opened.format == "joblib"
    packed = sha256(bucket["packed/iris.tar.gz"])
    assert locate("s3://models/packed/iris.tar.gz", None, packed).names() == ("compiled.onnx", MANIFEST, "model.skops")
    with pytest.raises(RefusedModel, match=r"iris\.tar\.gz has sha256 \w+, but"):
        locate("s3://models/packed/iris.tar.gz", None, bare)
    with pytest.raises(RefusedModel, match=r"the directory with MLmodel has sha256 \w+, but") as caught:
        locate("s3://models/flow", None, ANY)
    digest = str(caught.value).split("sha256 ")[1].split(",")[0]
    assert locate("s3://models/flow", None, digest).read("data/weights.bin") == b"weights"


def test_a_download_from_s3_resumes_after_a_broken_connection(
    s3: Service, bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Cut(s3.port, CUT) as relay:
        use(monkeypatch, s3_variables(s3, relay.port))
        source = locate("s3://models/big/model.onnx", None, ANY)
        assert source.read("model.onnx") == BIG
    assert relay.cuts == 1
    assert relay.passed < 1.5 * len(BIG), "only lost bytes are sent again"
    assert '"downloading" file=model.onnx received_mb=8 total_mb=20' in events(caplog)


@pytest.mark.attack(held=True)
def test_credentials_come_from_a_mounted_secret_and_wrong_ones_are_reported(
    s3: Service, bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, {**s3_variables(s3), "AWS_SECRET_ACCESS_KEY": "wrong-and-secret"})
    for key in ("bare/iris.joblib", "iris/v1/", "nothing/"):
        words = r"127\.0\.0\.1:\d+ rejected the credentials: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        with pytest.raises(UnreachableSource, match=words) as caught:
            locate(f"s3://models/{key}", None, ANY)
        assert "wrong-and-secret" not in str(caught.value)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("MLMODEL_STORAGE_CREDENTIALS", str(tmp_path))
    assert locate("s3://models/bare/iris.joblib", None, ANY).read("iris.joblib") == bucket["bare/iris.joblib"]


@pytest.mark.parametrize("key", ["models/nothing", "models/nothing/", "models/bare/other.joblib", "nobucket/iris"])
def test_an_error_for_a_model_missing_in_s3_has_the_command_that_copies_it(
    s3: Service, bucket: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_variables(s3))
    with pytest.raises(UnreachableSource, match=rf"s3://{key} has no model yet: .*aws s3 cp --recursive model s3://"):
        locate(f"s3://{key}", None, ANY)


def test_an_unreachable_store_is_reported_after_four_tries(s3: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cut(s3.port, 0) as relay:
        port = relay.port
    use(monkeypatch, s3_variables(s3, port))
    with pytest.raises(UnreachableSource, match=r"failed 4 times: .* cannot be reached, .*check AWS_ENDPOINT_URL, "):
        locate("s3://models/bare/iris.joblib", None, ANY)


@pytest.mark.attack(held=True)
def test_a_server_process_loads_from_s3_and_keeps_the_secret(s3: Service, bucket: Any, tmp_path: Path) -> None:
    digest = sha256(bucket[f"iris/v1/{MANIFEST}"])
    code, log = serve(["--uri", "s3://models/iris/v1", "--sha256", digest], s3_variables(s3))
    assert (code, 'msg="ready"' in log) == (0, True)
    wrong = {**s3_variables(s3), "AWS_SECRET_ACCESS_KEY": "wrong-and-secret"}
    code, denied = serve(["--uri", "s3://models/iris/v1", "--sha256", digest], wrong)
    assert (code, "rejected the credentials" in denied) == (4, True)
    for text in (log, denied):
        assert PASSWORD not in text
        assert "wrong-and-secret" not in text


def serve(arguments: list[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a server, stop it when it is ready, and return its exit code and log."""
    command = [sys.executable, "-m", "mlmodel_server", "--name", "iris", "--host", "127.0.0.1", "--port", "0"]
    env = {**os.environ, **variables}
    with subprocess.Popen([*command, *arguments], env=env, stderr=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(60, process.kill)
        timer.start()
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r'msg="ready" .*port=(\d+)', line):
                connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
                connection.request("GET", "/v2/health/ready")
                assert connection.getresponse().status == 200
                connection.close()
                process.terminate()
        timer.cancel()
    return process.returncode, "".join(lines)


def test_a_package_in_google_cloud_storage(gcs: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    files = package.build(*iris())
    connection = http.client.HTTPConnection("127.0.0.1", gcs.port, timeout=30)
    for name, data in {**files, "big.onnx": BIG}.items():
        connection.request("POST", f"/upload/storage/v1/b/models/o?uploadType=media&name=iris/{name}", data)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    connection.close()
    # A token, because otherwise obstore would request the pod's identity from the cloud
    variables = {"GOOGLE_BASE_URL": gcs.url, "GOOGLE_BEARER_TOKEN": PASSWORD}
    digest = sha256(files[MANIFEST])
    with Cut(gcs.port, CUT) as relay:
        use(monkeypatch, {**variables, "GOOGLE_BASE_URL": f"http://127.0.0.1:{relay.port}"})
        assert load(locate("gs://models/iris", None, digest), digest).manifest is not None
        assert locate("gs://models/iris/big.onnx", None, ANY).read("big.onnx") == BIG
    assert relay.cuts == 1
    use(monkeypatch, variables)
    with pytest.raises(UnreachableSource, match="gcloud storage cp --recursive model gs://models/nothing/"):
        locate("gs://models/nothing", None, ANY)


def push(service: Service, reference: str, folder: Path, *names: str) -> str:
    """Push files or directories of ``folder`` with oras, and return the URI by digest."""
    assert service.authority is not None
    name = f"127.0.0.1:{service.port}/{reference}"
    output = subprocess.run(
        [program(ORAS), "push", "--ca-file", service.authority, "--username", USER, "--password-stdin", "--no-tty",
         "--registry-config", folder / "none.json", name, *names],
        cwd=folder, input=PASSWORD, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert output.returncode == 0, output.stderr
    digest = next(line.split()[1] for line in output.stdout.splitlines() if line.startswith("Digest:"))
    return f"oci://{name.partition(':1.0')[0]}@{digest}"


@pytest.mark.attack(held=True)
def test_the_server_pulls_what_oras_pushed(registry: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "iris"
    model.mkdir()
    files = package.build(*iris())
    for name, data in files.items():
        (model / name).write_bytes(data)
    (model / "iris.tar.gz").write_bytes(gzip.compress(tar(files), mtime=0))
    (model / "model.onnx").write_bytes(BIG)
    as_files = push(registry, "team/files:1.0", model, *files)
    as_directory = push(registry, "team/directory:1.0", tmp_path, "iris")
    as_archive = push(registry, "team/archive:1.0", model, "iris.tar.gz")
    as_bare = push(registry, "team/bare:1.0", model, "model.onnx")

    monkeypatch.setenv("SSL_CERT_FILE", str(registry.authority))
    with pytest.raises(UnreachableSource, match="requires credentials: set OCI_USERNAME and OCI_PASSWORD"):
        locate(as_files, None, "")
    name = as_files.removeprefix("oci://").partition("/")[0]
    use(monkeypatch, {"OCI_REGISTRY": name, "OCI_USERNAME": USER, "OCI_PASSWORD": "wrong-and-secret"})
    with pytest.raises(UnreachableSource, match="answered 401: check OCI_USERNAME and OCI_PASSWORD"):
        locate(as_files, None, "")
    monkeypatch.setenv("OCI_PASSWORD", PASSWORD)
    for uri in (as_files, as_directory, as_archive):
        assert load(locate(uri, None, "")).manifest is not None
    digest = sha256(files[MANIFEST])
    tagged = as_files.partition("@")[0] + ":1.0"
    assert load(locate(tagged, None, digest), digest).manifest is not None
    with pytest.raises(UnreachableSource, match="answered 404: check the name and the tag"):
        locate(tagged.replace(":1.0", ":2.0"), None, digest)

    with Cut(registry.port, CUT) as relay:
        through = as_bare.replace(f":{registry.port}/", f":{relay.port}/")
        monkeypatch.setenv("OCI_REGISTRY", through.removeprefix("oci://").partition("/")[0])
        assert locate(through, None, "").read("model.onnx") == BIG
    assert relay.cuts == 1
    assert relay.passed < 1.5 * len(BIG), "only lost bytes are sent again"
