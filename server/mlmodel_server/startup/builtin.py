"""Models for a first try without any file: ``builtin://iris``.

Trained when the server starts, in a twentieth of a second: there is no artefact that a new scikit-learn could fail to
read, and nothing to build into the image.
"""

from __future__ import annotations

from mlmodel_server.errors import RefusedModel


def build(name: str) -> dict[str, bytes]:
    """The package of a built-in model, its files by name."""
    if name != "iris":
        raise RefusedModel(f"there is no built-in model {name[:40]!r}: use builtin://iris")
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from mlmodel_server import package

    iris = load_iris()
    labels = iris.target_names[iris.target]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, labels)
    return package.build(model, iris.data, labels, format="joblib", version="iris")
