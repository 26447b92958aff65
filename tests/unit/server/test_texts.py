"""Text from outside: one bounded line, and nothing of the content of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import yaml

from mlmodel_server import texts
from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.trees import whole
from mlmodel_server.loading.trust import open_artefact
from mlmodel_server.manifest import Manifest, parse
from mlmodel_server.texts import guess, one_line, reason_of

SECRET = "hush-4711"


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def quoting() -> None:
    raise ValueError(f"no such file: /var/run/secrets/{SECRET}")


LIBRARIES: dict[str, tuple[Callable[[], object], str]] = {
    "json": (lambda: json.loads(f'{{"a":\n {SECRET}}}'), "JSONDecodeError at line 2, column 2"),
    "yaml": (lambda: yaml.safe_load(f"a: [{SECRET}"), "ParserError at line 1, column "),
    "msgspec": (lambda: msgspec.json.decode(b"{" + SECRET.encode()), "DecodeError at byte 1"),
    "msgspec type": (
        lambda: msgspec.json.decode(b'{"schema": "hush-4711"}', type=Manifest), "ValidationError at $.schema"
    ),
    "int": (lambda: int(SECRET), "ValueError"),
    "float": (lambda: float(SECRET), "ValueError"),
    "key": (lambda: {"": 0}[SECRET], "KeyError"),
    "text": (lambda: b"ab\xff".decode(), "UnicodeDecodeError at byte 2"),
    "path": (quoting, "ValueError"),
    "import": (lambda: __import__("hush_features.own"), "ModuleNotFoundError: hush_features"),
}  # fmt: skip


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_error_of_a_library_gives_its_kind_and_position_only(library: str) -> None:
    call, expected = LIBRARIES[library]
    reason = reason_of(raised(call))
    assert reason.startswith(expected)
    assert SECRET not in reason
    assert "/" not in reason


def test_a_sentence_of_ours_stays_without_what_it_quotes() -> None:
    assert "it has " in reason_of(raised(lambda: whole(SECRET, 0, 9)))
    assert SECRET not in reason_of(raised(lambda: whole(SECRET, 0, 9)))


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("form", ["c{}\nx\n.", "cos\n{}\n.", "{}", "S{}", '{{"learner": {}}}'])
def test_a_file_that_is_no_model_is_not_quoted(form: str) -> None:
    """As a key or a password that somebody names as a model."""
    with pytest.raises(RefusedModel) as caught:
        open_artefact(form.format(SECRET).encode(), "model")
    message = str(caught.value)
    assert SECRET not in message
    assert message.isprintable()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("layout", [SECRET, "\x1b[31m"])
def test_a_description_that_is_wrong_is_not_quoted(layout: str) -> None:
    data = json.dumps({"schema": 1, "artefact": "a", "files": {}, "golden": {"inputs": [], "outputs": []},
                       "signature": {"layout": layout, "inputs": [], "outputs": []}})  # fmt: skip
    words = r"is not a package description \(ValidationError at \$\.signature\.layout\)"
    with pytest.raises(RefusedModel, match=words) as caught:
        parse(data.encode())
    assert layout not in str(caught.value)


@pytest.mark.attack(held=True)
def test_a_line_is_bounded_and_printable() -> None:
    assert one_line("a\n b\x1b\u202e", 100) == "a b\\u001b\\u202e"
    assert one_line("\x00" * 500, 100) == ("\\u0000" * 100)[:100]


@pytest.mark.parametrize(
    ("unknown", "known", "guessed"),
    [
        ("agee", ["fee", "age"], " (did you mean 'age'?)"),
        ("AGE", ["fee", "age"], " (did you mean 'age'?)"),
        ("age", ["fee", "Age of \x1b[2J"], ""),
        ("Größe", ["große"], " (did you mean 'große'?)"),
        ("x", ["age", "fee"], ""),
        ("/nothing", ["/ping", "/predict"], ""),
        ("", ["age"], ""),
        ("age", [], ""),
    ],
)
def test_an_unknown_name_gets_a_similar_one(unknown: str, known: list[str], guessed: str) -> None:
    assert guess(unknown, known) == guessed


def test_a_similar_name_has_no_control_character() -> None:
    assert "\x1b" not in guess("age1", ["age\x1b"])


def test_many_long_names_take_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counting(word: str, names: Any, n: int, cutoff: float) -> list[str]:
        compared.extend(names)
        return []

    monkeypatch.setattr(texts, "get_close_matches", counting)
    assert guess("a" * 65, [f"column {number}" for number in range(2_000)]) == ""
    assert not compared
    guess("column", [f"column {number}" for number in range(2_000)])
    assert len(compared) == 100
