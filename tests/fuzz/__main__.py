"""``python -m tests.fuzz``: see :mod:`.run`."""

from tests.fuzz.run import main

raise SystemExit(main())
