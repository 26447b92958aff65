"""Built-in models, to try the server without a file: ``builtin://iris``.

The server trains the model at its start, in 50 ms: no artefact that a new scikit-learn may fail to read, and nothing to
add to the image.
"""

from __future__ import annotations

from mlmodel_server.errors import RefusedModel
from mlmodel_server.formats.table import import_alone


def build(name: str) -> dict[str, bytes]:
    """Return the package of a built-in model, its files by name."""
    if name != "iris":
        raise RefusedModel(f"built-in model {name[:40]!r} not found: use builtin://iris")
    import_alone("joblib")  # a server opens no other model
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mlmodel_server import package

    iris = load_iris()
    labels = iris.target_names[iris.target]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, labels)
    return package.build(model, iris.data, labels, format="joblib", version="iris")
