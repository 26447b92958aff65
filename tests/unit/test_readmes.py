"""How the commands of READMEs are found, and responses compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.readme import EXAMPLES, Block, Folder, blocks, example_blocks, is_close, is_for_cluster, values

TEXT = """\
# Title

```shell
pip install something
```

## Serve

```sh
one &
two
```

### Deeper

```sh
three
```

```json
{"a": [1, 2.5]}
503
```

## Roll out in a cluster

```sh
four
```

```text
{"not": "compared"}
```

```json
{"after": "text"}
```
"""


def test_blocks_have_the_heading_above_and_the_response_below() -> None:
    assert blocks(TEXT) == [
        Block("Serve", "one &\ntwo\n"),
        Block("Serve", "three\n", [{"a": [1, 2.5]}, 503]),
        Block("Roll out in a cluster", "four\n"),
    ]


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ('{"a": [1, 2.5001]}', True),
        ('{"a": [1, 2.6]}', False),
        ('{"a": [1]}', False),
        ('{"a": [2, 2.5]}', False),
        ('{"a": "2.5"}', False),
        ('{"b": [1, 2.5]}', False),
        ("[1, 2.5]", False),
    ],
)
def test_numbers_may_differ_by_rounding_and_nothing_else(found: str, same: bool) -> None:
    assert is_close(values(found), values('{"a": [1, 2.5]}')) is same


def test_text_between_responses_is_not_a_response() -> None:
    assert values('{"a": 1}{"b": 2}\n503') == [{"a": 1}, {"b": 2}, 503]
    assert values("curl: (7) Failed") == ["curl: (7) Failed"]


def test_a_command_that_fails_and_a_response_that_differs_fail_the_test(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.run([Block("", "x=1\n"), Block("", "sleep 60 &\necho $x", [1])]) == ["", "1\n"]
    with pytest.raises(pytest.fail.Exception, match=r"exit code 1\nfalse"):
        folder.run([Block("", "true\n"), Block("", "false\n"), Block("", "true\n")])
    with pytest.raises(AssertionError, match="echo 2"):
        folder.run([Block("", "echo 2", [1])])
    with pytest.raises(pytest.fail.Exception, match=r"none after 0\.2 s"):
        folder.run([Block("", "sleep 60")], seconds=0.2)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_trains_serves_and_runs_in_a_cluster(example: str) -> None:
    found = example_blocks(example)
    assert found[0].heading == "Train"
    assert any(block.expected for block in found), "it shows a response"
    assert any(is_for_cluster(block) for block in found)
