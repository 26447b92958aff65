"""The arguments of ``package.save``: usual spellings are accepted, and a mistake is one sentence with what to type."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from mlmodel_server import manifest, package
from mlmodel_server.errors import UsageError
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.package import arguments
from tests.unit.server.models import iris

pytestmark = pytest.mark.models


class Own:
    pass


def saved(directory: Path, *given: Any, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        package.save(*given, **{"compile": False, **options})
    assert "\n" not in str(caught.value)
    assert not (directory / "out").exists()
    return caught.value


@pytest.mark.parametrize("given", ["nofile", PCA(), LogisticRegression()])
def test_a_call_without_labels_or_directory_says_which_arguments_there_are(given: Any, tmp_path: Path) -> None:
    X = iris()[1]
    for call in ((given,), (given, str(tmp_path / "out")), (given, X, str(tmp_path / "out")), (given, X, None, None)):
        assert arguments.CALL in str(saved(tmp_path, *call))


def test_a_directory_that_cannot_be_one_is_reported_before_the_model_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a package")
    monkeypatch.setattr("mlmodel_server.package.write.dump", None)  # which comes after the check
    assert "file is a file: give a directory" in str(saved(tmp_path, *iris(), tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "not a package"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a package")
    error = str(saved(tmp_path, *iris(), tmp_path / "file" / "out"))
    assert "out cannot be written (Not a directory): give a directory that you may write to" in error


def test_a_file_that_does_not_exist_or_is_no_model_is_named(tmp_path: Path) -> None:
    X = iris()[1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.joblib").write_text("a,b\n1,2\n")
    for name, words in (
        ("nothing.joblib", "nothing.joblib' does not exist: give the path of a model file, or the fitted model itself"),
        ("empty", "empty: the source has no mlmodel.json"),
        ("text.joblib", "text.joblib"),
    ):
        assert words in str(saved(tmp_path, tmp_path / name, X, None, tmp_path / "out"))


@pytest.mark.parametrize("model", [pd.DataFrame({"a": [1]}), pd.Series([1]), np.ones(3), [PCA()], {"m": PCA()}, None])
def test_a_table_in_the_place_of_the_model_is_called_so(model: Any, tmp_path: Path) -> None:
    error = str(saved(tmp_path, model, *iris()[1:], tmp_path / "out"))
    assert error.startswith(f"model is of the type {type(model).__name__}")
    assert arguments.CALL in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": PCA}, r"model is the class PCA: pass a fitted object, PCA\(\)\.fit"),
        ({"X": None}, "X is of the type NoneType: pass rows"),
        ({"X": "data.csv"}, "X is of the type str: pass rows"),
        ({"y": "label"}, "y is a text: pass the label of each row"),
        ({"version": 7}, "version is 7: pass text"),
        ({"version": None}, "version is None: pass text"),
        ({"format": "jobllib"}, r"format is 'jobllib' \(did you mean 'joblib'\?\): use 'auto', 'skops' or 'joblib'"),
        ({"compress": "gzip"}, r"compress is 'gzip': use 0 \(none\) to 9 \(smallest\)"),
        ({"compress": True}, "compress is True: use 0"),
        ({"extra_columns": True}, "extra_columns is True: use 'refuse' or 'ignore'"),
        ({"method": LogisticRegression.predict}, "give the name of the method, 'predict'"),
        ({"outputs": [LogisticRegression.predict]}, "give the name of the method, 'predict'"),
        ({"outputs": [3]}, "outputs has an object of the type int: give names of methods as text"),
        ({"outputs": "predict_probb"}, r"no method 'predict_probb' \(did you mean 'predict_proba'\?\)"),
        ({"code": 3}, "code has an object of the type int: give modules"),
        ({"code": [Own]}, rf"code has an object of the type type: give its module, code=\[{__name__}\]"),
        ({"code": "own_module"}, r"own_module is neither a \.py file nor a directory with an __init__\.py: give"),
        ({"y": np.ones((150, 2))}, "y does not fit .*: it has numbers in 2 columns, and the model predicts numbers"),
        ({"y": ["a"] * 150}, "y does not fit .*: it has text, and the model predicts numbers: pass labels of the same"),
    ],
)
def test_a_wrong_argument_says_what_to_type(changes: dict[str, Any], words: str) -> None:
    model, X, y = iris()
    options = {"model": model, "X": X, "y": y, "compile": False, **changes}
    with pytest.raises(UsageError, match=words) as caught:
        package.build(**options)
    assert "\n" not in str(caught.value)


def test_one_of_several_needs_no_list() -> None:
    model, X, y = iris()
    listed = package.build(model, X, y, compile=False, method="predict_proba", outputs=["decision_function"])
    assert package.build(model, X, y, compile=False, method="predict_proba", outputs="decision_function") == listed
    assert package.build(model, X, pd.DataFrame({"label": y}), compile=False, method="predict_proba",
                         outputs="decision_function") == listed  # fmt: skip
    assert set(package.build(model, X, y, compile=False, code=None)) == {MANIFEST, "model.skops"}


def test_a_module_needs_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "newcomers_module.py"
    source.write_text("LIMIT = 60\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("newcomers_module")
    monkeypatch.setattr("mlmodel_server.package.write.fresh.check", lambda _files: None)
    built = [package.build(*iris(), code=code) for code in ([module], module, source, str(source))]
    assert all(files == built[0] for files in built)
    assert "code.newcomers_module.py" in manifest.parse(built[0][MANIFEST]).files
