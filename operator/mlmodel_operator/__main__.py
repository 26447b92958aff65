"""The console script ``mlmodel-operator``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

try:
    from mlmodel_operator import process
except ModuleNotFoundError as error:
    library = str(error.name).partition(".")[0]
    sys.exit(
        f"mlmodel-operator: the Python package {library} is not installed: in a clone of the project, run"
        " pip install '.[operator]'"
    )
from mlmodel_operator.names import OPERATOR, OPERATOR_PORT
from mlmodel_operator.runtime import log
from mlmodel_operator.settings import Settings, SettingsError


def main(
    build: process.Build = process.controller, port: int = OPERATOR_PORT, argv: Sequence[str] | None = None
) -> None:
    """Exit with code 0 after SIGTERM or SIGINT, 2 for a wrong command line, 1 otherwise.

    ``build`` and ``port`` are for tests, which replace the controller.
    """
    try:
        settings = Settings.read(sys.argv[1:] if argv is None else argv)
    except SettingsError as error:
        sys.exit(f"{OPERATOR}: {error}")
    log.configure(settings.log_level)
    try:
        asyncio.run(process.run(settings, build, port))
    except OSError as error:  # no configuration, or the port is in use
        sys.exit(f"{OPERATOR}: {error}")
    except ExceptionGroup as stopped:
        process.report(stopped)
        sys.exit(1)


if __name__ == "__main__":
    main()
