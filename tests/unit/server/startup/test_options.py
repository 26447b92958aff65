"""The options: defaults, help, and errors that say what to type instead."""

from __future__ import annotations

import argparse
import re

import pytest

from hack import ROOT
from mlmodel_server import cli
from mlmodel_server.startup import options

MODEL = ["--name", "a", "--uri", "b"]


def test_options_have_defaults() -> None:
    arguments = options.parse(MODEL)
    assert (arguments.trust, arguments.port, arguments.grpc_port, arguments.batch_rows) == ("strict", 8080, 0, 64)
    assert 1 < arguments.watts_per_core < 10


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("--name", "a b", "'a b' is not valid: use up to 128 visible ASCII characters without spaces"),
        ("--sha256", "abc", "'abc' is not a SHA-256: give its 64 hexadecimal digits"),
        ("--workers", "-1", "'-1' is not an integer from 0 to 256"),
        ("--workers", "257", "'257' is not an integer from 0 to 256"),
        ("--batch-rows", "0", "'0' is not an integer from 1 to 1000000"),
        ("--batch-rows", "\u00b2", "is not an integer from 1 to 1000000"),
        ("--max-body", "2147483648", "is not an integer from 1 to 2147483647"),
        ("--max-rows", "1" * 5000, "is not an integer from 1 to 1000000000"),
        ("--queue", "many", "'many' is not an integer from 1 to 1000000"),
        ("--port", "x", "'x' is not an integer from 0 to 65535"),
        ("--port", "65536", "'65536' is not an integer from 0 to 65535"),
        ("--grpc-port", "-1", "'-1' is not an integer from 0 to 65535"),
        ("--shadow-percent", "nan", "a percentage, above 0 and up to 100"),
        ("--payload-percent", "100.1", "a percentage, above 0 and up to 100"),
        ("--name", "", "it is empty: give the model a name"),
        ("--timeout", "0", "above 0 and up to 3600"),
        ("--timeout", "soon", "above 0 and up to 3600"),
        ("--watts-per-core", "0", "watts, above 0"),
        ("--watts-per-core", "nan", "watts, above 0"),
        ("--watts-per-core", "many", "watts, above 0"),
        ("--trust", "all", "unknown value 'all'; use one of strict, signed, unsafe"),
        ("--trust", "sign", "unknown value 'sign' (did you mean 'signed'?); use one of strict, signed, unsafe"),
        ("--prt", "9000", "unknown argument '--prt' (did you mean '--port'?)"),
    ],
)
def test_an_error_names_the_option_and_what_to_give(
    argument: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        options.parse([*MODEL, argument, value])
    assert exited.value.code == 2
    printed = capsys.readouterr().err
    assert argument in printed
    assert words in printed
    assert printed.endswith(": see mlmodel-server --help\n")
    assert printed.count("\n") == 1, "one sentence, without the list of all options"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for command, program in ((options.parse, "mlmodel-server"), (cli.main, "mlmodel")):
        with pytest.raises(SystemExit) as exited:
            command(["--version"])
        assert exited.value.code == 0
        assert re.fullmatch(rf"{program} \d+\.\d+\S*\n", capsys.readouterr().out)


def test_the_command_line_of_a_laptop_reports_a_mistake_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for given, words in (([], "required: COMMAND"), (["nothing"], "nothing"), (["package"], "MODEL_FILE|DIR")):
        with pytest.raises(SystemExit) as exited:
            cli.main(given)
        printed = capsys.readouterr().err
        assert exited.value.code == 2
        assert words in printed
        assert printed.count("\n") == 1


def test_the_help_gives_each_default_and_the_reference_has_each_option() -> None:
    reference = (ROOT / "docs" / "reference" / "server.md").read_text()
    cells = re.findall(r"^\| (`--[^|]*(?:\\\|[^|]*)*) \|", reference, re.MULTILINE)
    rows = set(re.findall(r"`(--[a-z0-9-]+)", " ".join(cells)))
    # Without those that only the server itself gives.
    actions = [action for action in options.parser()._actions if action.help != argparse.SUPPRESS]
    actions = [action for action in actions if action.dest not in ("help", "version")]
    assert {option for action in actions for option in action.option_strings} == rows
    for action in actions:
        assert action.help is not None
        assert action.required or "(default: " in action.help, action.option_strings
