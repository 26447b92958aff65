"""``python -m mlmodel_server`` and the command ``mlmodel-server``."""

import sys

from mlmodel_server.startup.run import main

if __name__ == "__main__":
    sys.exit(main())
