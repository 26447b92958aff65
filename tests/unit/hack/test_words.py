"""The check for phrases that the style guide bans."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import words


def found(path: Path, text: str) -> list[tuple[int, str]]:
    """Line and kind of every banned phrase in a file with this text."""
    path.write_text(text, "utf-8")
    return [(number, name) for number, _, name, _ in words.banned(path)]


@pytest.mark.parametrize(
    "text",
    [
        "# it hears of it\n",
        '"""Whatever it is."""\n',
        'x = f"there {1} is no model"\n',
        "x = 1\n\ny = '''a\nby itself'''\n",
    ],
)
def test_comments_docstrings_and_strings_of_python_are_read(tmp_path: Path, text: str) -> None:
    assert len(found(tmp_path / "module.py", text)) == 1


def test_the_line_is_that_of_the_phrase(tmp_path: Path) -> None:
    assert found(tmp_path / "module.py", 'x = 1\ny = """a\nby itself"""\n') == [(3, "filler")]


def test_names_and_calls_in_code_are_not_sentences(tmp_path: Path) -> None:
    assert found(tmp_path / "module.py", "told = leaving\nsize = f'{file.tell()}'\n") == []


def test_quoted_code_in_markdown_is_not_a_sentence(tmp_path: Path) -> None:
    assert found(tmp_path / "page.md", "Write `told`.\n\n```\nwhatever\n```\n\nIt was told.\n") == [(7, "tell, hear")]
