"""Write a model package at training time: one call, one directory, everything the server needs to check itself.

from mlmodel_server import package
package.save(model, X_test, y_test, "model")
"""

from __future__ import annotations

from mlmodel_server.package.configmap import config_map
from mlmodel_server.package.write import build, save

__all__ = ["build", "config_map", "save"]
