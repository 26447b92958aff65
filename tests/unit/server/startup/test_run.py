"""The reason of a failure: one bounded line without characters that a terminal interprets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlmodel_server.errors import RefusedModel
from mlmodel_server.startup import run


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("MLMODEL_TERMINATION_LOG", str(path))
    return path


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("model.skops is a link: copy the file", "model.skops is a link: copy the file"),
        ("two\nlines\t and  spaces ", "two lines and spaces"),
        ("\x1b[31mred\x1b[0m.joblib", "\\u001b[31mred\\u001b[0m.joblib"),
        ("a\x00\x07\x7f\x9b\u202e\u200bz", "a\\u0000\\u0007\\u007f\\u009b\\u202e\\u200bz"),
        ("für Grüße", "für Grüße"),
    ],
)
def test_the_termination_message_has_no_control_character(message: Path, reason: str, line: str) -> None:
    assert run._fail(RefusedModel(reason)) == 3
    assert message.read_text("utf-8") == line


def test_the_termination_message_is_bounded_after_its_characters_are_escaped(message: Path) -> None:
    run._fail(RefusedModel("\x1b" * 5_000))
    text = message.read_text("utf-8")
    assert len(text) == run.MAX_REASON
    assert text.isprintable()


@pytest.mark.attack(held=True)
def test_another_error_reveals_only_its_type(message: Path) -> None:
    assert run._fail(KeyError("\x1bsecret")) == 1
    assert message.read_text("utf-8") == "internal error: KeyError"


@pytest.mark.parametrize(
    ("host", "secure", "url"),
    [
        ("", False, "http://localhost:8080/"),
        ("0.0.0.0", False, "http://localhost:8080/"),
        ("::", True, "https://localhost:8080/"),
        ("127.0.0.1", False, "http://127.0.0.1:8080/"),
        ("::1", False, "http://[::1]:8080/"),
        ("[::1]", False, "http://[::1]:8080/"),
        ("models.example", True, "https://models.example:8080/"),
    ],
)
def test_the_address_in_the_log_opens_in_a_browser(host: str, secure: bool, url: str) -> None:
    assert run._url(host, 8080, secure) == url
