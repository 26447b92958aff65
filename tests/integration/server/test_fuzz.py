"""Model files with one forged part are refused, or answer as the library does: a minute of ``make fuzz-artefacts``."""

from __future__ import annotations

from tests.fuzz.run import run


def test_a_forged_file_is_refused_or_answers_as_the_library_does() -> None:
    result = run(count=20_000, seconds=60)
    assert result.faults == []
    assert result.outcomes["refused"] > 0 < result.outcomes["answered"]
