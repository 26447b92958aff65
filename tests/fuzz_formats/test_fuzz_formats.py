"""No changed file crashes or hangs the server, takes much memory, or has an answer that depends on foreign memory."""

from __future__ import annotations

import pytest

from tests.fuzz_formats.fuzz import judge, run


@pytest.mark.fuzz
@pytest.mark.timeout(4 * 3600)
@pytest.mark.filterwarnings("ignore")
def test_every_changed_file_is_refused_or_answered_as_the_library_does(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("fuzz_artefacts")
    result = run(count or 10_000, 4 * 3600 if count else 30, report=bool(count))
    for outcome, number in sorted(result.outcomes.items()):
        print(f"{number:>6}  {outcome}")
    assert not result.faults, "\n".join(result.faults)
    assert {outcome.split()[0] for outcome in result.outcomes if outcome.endswith(" answered")} == {
        "onnx",
        "lightgbm",
        "xgboost",
    }


def test_the_judge_sees_every_fault() -> None:
    good = ["answered", "a", "b", "b"]
    assert judge(good, good) == "answered"
    assert judge(["refused", "x"], ["refused", "y"]) == "refused"
    for first, second in (
        (["crashed", "open"], good),
        (good, ["hung", "predict"]),
        (good, ["refused"]),
        (good, ["answered", "c", "b", "b"]),
        (["answered", "a", "c", "b"], ["answered", "a", "c", "b"]),
    ):
        assert judge(first, second).startswith("fault")
