"""Settings: complete, or one sentence that says what to set."""

from __future__ import annotations

import pytest

from mlmodel_operator.settings import Settings, SettingsError

ENV = {"SERVER_IMAGE": "s:1", "ROUTER_IMAGE": "r:1", "POD_NAMESPACE": "system", "POD_NAME": "pod-1"}


def test_a_complete_environment_is_read() -> None:
    assert Settings.from_env(ENV) == Settings("s:1", "r:1", "system", "pod-1", "INFO")
    assert Settings.from_env({**ENV, "LOG_LEVEL": "debug"}).log_level == "DEBUG"


@pytest.mark.parametrize("name", sorted(ENV))
@pytest.mark.parametrize("value", [None, " "])
def test_what_is_missing_is_named(name: str, value: str | None) -> None:
    env = {key: found for key, found in ENV.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(SettingsError, match=f"{name} is not set: set it to"):
        Settings.from_env(env)


def test_a_wrong_log_level_is_refused_with_the_right_ones() -> None:
    with pytest.raises(SettingsError, match="DEBUG, INFO, WARNING, ERROR"):
        Settings.from_env({**ENV, "LOG_LEVEL": "loud"})
