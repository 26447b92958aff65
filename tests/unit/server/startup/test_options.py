"""Every wrong argument is told in one sentence that says what to type instead."""

from __future__ import annotations

import pytest

from mlmodel_server.startup import options

MODEL = ["--name", "a", "--uri", "b"]


def test_what_is_not_given_has_a_sensible_value() -> None:
    arguments = options.parse(MODEL)
    assert (arguments.trust, arguments.port, arguments.grpc_port, arguments.batch_rows) == ("strict", 8080, 0, 64)
    assert 1 < arguments.watts_per_core < 10


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("--name", "a b", "without spaces"),
        ("--sha256", "abc", "64 hexadecimal digits"),
        ("--workers", "-1", "from 0 to 256"),
        ("--batch-rows", "0", "above 0"),
        ("--timeout", "0", "above 0 and up to 3600"),
        ("--timeout", "soon", "above 0 and up to 3600"),
        ("--watts-per-core", "0", "watts, above 0"),
        ("--watts-per-core", "nan", "watts, above 0"),
        ("--watts-per-core", "many", "watts, above 0"),
        ("--trust", "all", "strict"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_give(
    argument: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse([*MODEL, argument, value])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert argument in told
    assert words in told
