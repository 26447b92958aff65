"""Write a model package after training: one call writes one directory, with all that a server needs to test the model.

from mlmodel_server import package
package.save(model, X_test, y_test, "model")
"""

from __future__ import annotations

from mlmodel_server.package.configmap import config_map
from mlmodel_server.package.write import build, save

__all__ = ["build", "config_map", "save"]
