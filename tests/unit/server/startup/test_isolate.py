"""No credentials and no foreign files in the process that opens the model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlmodel_server.startup import isolate

CREDENTIALS = {
    "AWS_SECRET_ACCESS_KEY": "hush",
    "aws_session_token": "hush",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "hush",
    "AZURE_STORAGE_SAS_TOKEN": "hush",
    "OCI_PASSWORD": "hush",
    "MLMODEL_STORAGE_CREDENTIALS": "/etc/hush",
}
OTHERS = {"HTTPS_PROXY": "http://me:hush@proxy", "GITHUB_TOKEN": "hush", "DATABASE_URL": "hush"}
NEEDED = {
    "PATH": "/bin",
    "MLMODEL_SIGNING_KEYS_PEM": "PEM",
    "MLMODEL_TERMINATION_LOG": "/dev/termination-log",
    "OMP_NUM_THREADS": "2",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector",
    "SSL_CERT_FILE": "/ca.pem",
    "LC_ALL": "C.UTF-8",
}


@pytest.mark.attack(held=True)
def test_only_listed_variables_are_kept() -> None:
    assert isolate.kept(CREDENTIALS | OTHERS | NEEDED) == NEEDED
    assert not isolate.has_credentials(isolate.kept(CREDENTIALS | OTHERS | NEEDED)), "so a server starts again once"


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("name", CREDENTIALS)
def test_each_variable_of_a_store_is_a_credential(name: str) -> None:
    assert isolate.has_credentials({name: "x"})
    assert not isolate.has_credentials(NEEDED)


def test_a_child_returns_its_exit_code_and_the_signal_that_ended_it() -> None:
    assert isolate.run_in_child(lambda: 4) == 4

    def killed() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert isolate.run_in_child(killed) == -signal.SIGKILL


@pytest.mark.attack(held=True)
def test_a_server_works_in_an_empty_directory_from_which_it_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("")
    program = (
        "import os, sys\n"
        "from mlmodel_server.startup import isolate\n"
        "isolate.enter_empty_directory()\n"
        "print(os.getcwd(), os.listdir(), oct(os.stat('.').st_mode & 0o777), sep='\\n')\n"
        "try:\n    import beside\nexcept ImportError:\n    print('no module')\n"
    )
    path = os.pathsep.join(path for path in sys.path if os.path.isabs(path))
    env = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-c", program]
    printed = subprocess.check_output(command, cwd=tmp_path, env=env, text=True).splitlines()
    assert printed[0].startswith(f"{tmp_path}/tmp/mlmodel-")
    assert printed[1:] == ["[]", "0o500", "no module"]
    assert os.listdir(tmp_path / "tmp") == [], "it is removed at the end"


@pytest.mark.attack(held=True)
def test_modules_beside_a_model_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "link"), *before])
    isolate.forbid_imports_from(str(tmp_path))
    assert sys.path == before
