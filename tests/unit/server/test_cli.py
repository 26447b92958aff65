"""The ``mlmodel`` command: it works, and a mistake gives one sentence and exit code 2."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from mlmodel_server import package
from mlmodel_server.cli import main
from mlmodel_server.errors import RefusedModel
from mlmodel_server.loading.load import load
from mlmodel_server.loading.signing import keys_of
from mlmodel_server.loading.sources import locate
from mlmodel_server.startup.options import parse
from tests.unit.server.loading.malicious import payload
from tests.unit.server.loading.test_signing import key, pem, public
from tests.unit.server.models import iris, joblib_bytes, mixed
from tests.unit.server.own_modules import fitted, forgotten, imported

pytestmark = pytest.mark.models


@pytest.fixture
def table(tmp_path: Path) -> Path:
    model, X, y = mixed()
    X.assign(label=y).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "model.joblib").write_bytes(joblib_bytes(model))
    return tmp_path


def test_a_model_file_becomes_a_package_and_a_config_map(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["package", str(table / "model.joblib"), "--data", str(table / "data.csv"), "--label", "label"]
    assert main([*command, "--out", str(table / "out"), "--configmap", "m-v1", "--version", "v1"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["metadata"]["name"] == "m-v1"
    assert "mlmodel inspect" in printed.err
    assert main(["package", str(table / "out"), "--configmap", "m-v1"]) == 0
    assert capsys.readouterr().out == printed.out
    assert main(["inspect", str(table / "out")]) == 0
    shown = capsys.readouterr().out
    for words in ("input   country  BYTES [-1]", "metric  accuracy", "version v1", "self-test passed on 12"):
        assert words in shown
    assert re.search(
        r"^one row takes [\d,]+ µs as it was saved(, [\d,]+ µs compiled)?, which a server here", shown, re.MULTILINE
    )


def test_columns_of_the_csv_are_put_in_the_order_of_the_model(table: Path) -> None:
    data = pd.read_csv(table / "data.csv")
    data[sorted(data.columns)].assign(extra=1).to_csv(table / "shuffled.csv", index=False)
    command = ["package", str(table / "model.joblib"), "--data", str(table / "shuffled.csv"), "--label", "label"]
    assert main([*command, "--out", str(table / "out")]) == 0


def test_a_bare_file_can_be_inspected(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table / "iris.joblib").write_bytes(joblib_bytes(iris()[0]))
    assert main(["inspect", str(table / "iris.joblib")]) == 0
    assert "input   input-0  FP64 [-1, 4]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect nothing", "does not exist: give a package directory"),
        ("inspect empty", "the source has no mlmodel.json"),
        ("inspect bad.joblib", "refused posix.system in bad.joblib"),
        ("package nothing", "nothing does not exist: give a model file"),
        (
            "package model.joblib",
            "--data --out missing: type mlmodel package model.joblib --data data.csv --out DIR",
        ),
        ("package empty", "is a directory: type mlmodel package empty --configmap NAME"),
        ("package empty --configmap a", "is not a package: write one with package.save"),
        ("package out --configmap A_B", "cannot name a ConfigMap"),
        ("package bad.joblib --data data.csv --label label --out x", "refused posix.system in bad.joblib"),
        ("package gone.joblib --data data.csv --label label --out x", "gone.joblib does not exist: give a model file"),
        ("package model.joblib --data gone.csv --label label --out x", "gone.csv: No such file"),
        ("package model.joblib --data empty.csv --label label --out x", "empty.csv is not a CSV table"),
        (
            "package model.joblib --data data.csv --label y --out x",
            "has no column 'y': give --label one of amount, count",
        ),
        (
            "package model.joblib --data short.csv --label label --out x",
            "lacks the column(s) 'country' (did you mean 'count'?)",
        ),
        ("package model.joblib --data data.csv --label label --out x --compress 12", "compress is 12: use 0"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(
    table: Path, command: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table)
    (table / "empty").mkdir()
    (table / "empty.csv").touch()
    (table / "bad.joblib").write_bytes(joblib_bytes(payload(table / "ran")))
    pd.read_csv("data.csv").drop(columns="country").to_csv("short.csv", index=False)
    package.save(*iris(), "out", compile=False)
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (table / "ran").exists()


def test_a_model_fitted_on_an_array_gets_the_columns_in_the_order_of_the_file(tmp_path: Path) -> None:
    _, X, y = iris()
    pd.DataFrame(X).assign(label=y).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(LogisticRegression(max_iter=500).fit(X, y)))
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv"), "--label", "label"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0


def test_a_model_without_labels_becomes_a_package(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = pd.DataFrame(iris()[1])
    X.to_csv(table / "rows.csv", index=False)
    (table / "pca.joblib").write_bytes(joblib_bytes(PCA(2).fit(X.to_numpy())))
    command = ["package", str(table / "pca.joblib"), "--data", str(table / "rows.csv")]
    assert main([*command, "--out", str(table / "out"), "--method", "score_samples", "--outputs", "transform"]) == 0
    assert main(["inspect", str(table / "out")]) == 0
    shown = capsys.readouterr().out
    assert "output  transform  FP64 [-1, 2]" in shown
    assert "metric" not in shown
    served = load(locate(str(table / "out"), None, "")).manifest
    assert served is not None
    assert served.signature.default == ("score_samples",)
    assert main([*command, "--out", str(table / "other"), "--method", "predict"]) == 2
    assert "the model has no method 'predict'" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [["text", "id"], ["review"]])
def test_a_model_of_texts_gets_a_column_of_the_file(columns: list[str], tmp_path: Path) -> None:
    texts = ["a good day", "a bad day", "", "good"] * 5
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 0, 1] * 5)
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(model))
    pd.DataFrame(dict.fromkeys(columns, texts)).assign(label=[1, 0, 0, 1] * 5).to_csv(
        tmp_path / "data.csv", index=False
    )
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv"), "--label", "label"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    served = load(locate(str(tmp_path / "out"), None, "")).manifest
    assert served is not None
    assert served.metrics["accuracy"] == 1.0
    pd.DataFrame({"a": texts, "b": texts}).to_csv(tmp_path / "data.csv", index=False)
    assert main([*command[:-2], "--out", str(tmp_path / "out")]) == 2


def test_a_model_of_dictionaries_gets_the_rows_of_the_file(tmp_path: Path) -> None:
    people = [{"city": "Rome", "age": 30}, {"city": "Oslo", "age": 5}, {"age": 41}, {"city": "Rome"}] * 3
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(make_pipeline(DictVectorizer(), Ridge()).fit(people, range(12))))
    pd.DataFrame(people).to_csv(tmp_path / "data.csv", index=False)
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert main(["inspect", str(tmp_path / "out")]) == 0


def test_a_package_is_signed_under_the_name_that_it_is_served_under(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "fraud.v7"
    package.save(*iris(), directory, compile=False)
    (tmp_path / "key").write_bytes(pem(key()))
    for given, name in (([], "fraud"), (["--name", "other"], "other")):
        assert main(["package", str(directory), "--sign", str(tmp_path / "key"), *given]) == 0
        assert f" serve {directory} --name {name} --trust signed" in capsys.readouterr().err
        options = {"trust": "signed", "keys": [public(key())]}
        assert load(locate(str(directory), None, ""), name=name, **options).signed_by  # type: ignore[arg-type]
        with pytest.raises(RefusedModel, match=f"signed as '{name}'"):
            load(locate(str(directory), None, ""), name="iris", **options)  # type: ignore[arg-type]


def test_dates_of_a_csv_file_and_extra_columns_are_packaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = pd.DataFrame({"day": pd.to_datetime("2024-02-26") + pd.to_timedelta([0, 1, 2, 3] * 10, "D"), "x": 1.0})
    y = ["a", "b", "b", "a"] * 10
    columns = ColumnTransformer([("day", OneHotEncoder(), ["day"])], remainder="passthrough")
    (tmp_path / "model.joblib").write_bytes(joblib_bytes(make_pipeline(columns, LogisticRegression()).fit(X, y)))
    X.assign(label=y).to_csv(tmp_path / "data.csv", index=False)
    command = ["package", str(tmp_path / "model.joblib"), "--data", str(tmp_path / "data.csv"), "--label", "label"]
    options = ["--out", str(tmp_path / "out"), "--extra-columns", "ignore"]
    assert main([*command, *options, "--dates", "day"]) == 0
    described = load(locate(str(tmp_path / "out"), None, "")).manifest
    assert described is not None
    assert described.signature.ignores_others
    assert described.signature.inputs[0].column is not None
    assert described.signature.inputs[0].column.dtype.startswith("datetime64")
    capsys.readouterr()
    for wrong, words in (("label", "is not a date in ISO 8601"), ("z", "has no column 'z'")):
        assert main([*command, *options, "--dates", wrong]) == 2
        assert words in capsys.readouterr().err


COMMAND = re.compile(r"mlmodel (?:package|serve|inspect)(?: (?:--[a-z-]+|signed|[A-Z_]{3,}|[\w/-]*\.\w+))+")
"""A command in a message; what its user has is in capital letters."""


def typed(command: str, has: dict[str, str]) -> list[str]:
    """Return the arguments of a command with what its user has."""
    return [has.get(word, word) for word in shlex.split(command)[1:]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options with which ``mlmodel serve`` starts servers, each of which opens its model."""
    found: list[Any] = []

    def serve(argv: list[str]) -> int:
        options = parse(argv)
        keys = keys_of(options.signing_keys.read_bytes()) if options.signing_keys else ()
        assert load(locate(options.uri, None, ""), trust=options.trust, keys=keys, name=options.name).opened
        found.append(options)
        return 0

    monkeypatch.setattr("mlmodel_server.startup.run.main", serve)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a key pair, as a user has it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my key.pem").write_bytes(pem(key()))
    (tmp_path / "public.pem").write_bytes(public(key()))
    return tmp_path


HAS = {"KEY": "my key.pem", "PUBLIC_KEY": "public.pem", "NAME": "shop", "DIR": "a dir", "LABEL": "label"}


def test_each_command_that_a_message_shows_for_own_code_works_as_typed(
    folder: Path, served: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(folder, monkeypatch)
    model, X, y = fitted(module)
    joblib.dump(model, "m.joblib")
    np.savetxt("rows.csv", np.column_stack([X, y]), delimiter=",", header="a,b,c,d,label", comments="")
    forgotten(monkeypatch, "clipping")
    assert main(["inspect", "m.joblib"]) == 2
    commands = COMMAND.findall(capsys.readouterr().err)
    assert [command.split()[1] for command in commands] == ["package", "package", "serve"]
    for command in commands:
        label = ["--label", "label"] if "--data" in command else []
        assert main([*typed(command, HAS | {"FILE": "m.joblib"}), *label]) == 0, command
    assert [(options.trust, options.name) for options in served] == [("signed", "shop")]


def test_a_model_that_strict_refuses_is_served_with_the_commands_of_the_message(
    folder: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    _, X, y = iris()
    doubled = make_pipeline(FunctionTransformer(lambda X: 2 * X), LogisticRegression(max_iter=900)).fit(X, y)
    for where in (folder, folder / "a dir"):
        where.mkdir(exist_ok=True)
        (where / "m.pkl").write_bytes(cloudpickle.dumps(doubled))
    assert main(["inspect", "m.pkl"]) == 2
    commands = COMMAND.findall(capsys.readouterr().err)
    assert [command.split()[1] for command in commands] == ["package", "serve"]
    for command in commands:
        assert main(typed(command, HAS)) == 0, command
    assert [(options.trust, options.name) for options in served] == [("signed", "shop")]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_after_next_are_typed_as_they_are(
    folder: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.joblib").write_bytes(joblib_bytes(iris()[0]))
    pd.DataFrame(iris()[1]).assign(label=iris()[2]).to_csv("my data.csv", index=False)

    def following() -> list[str]:
        return capsys.readouterr().err.strip().rpartition("; next: ")[2].split(" && ")

    assert main(["package", "model.joblib", "--label", "label", "--data", "my data.csv"]) == 2
    assert main([*typed(capsys.readouterr().err.strip().rpartition("type ")[2], HAS), "--no-compile"]) == 0
    for command in following():
        assert main(typed(command, {})) == 0
    capsys.readouterr()
    assert main(["package", "a dir"]) == 2
    configmap, sign = re.findall(r"type (.*) to print .* or (.*) to sign", capsys.readouterr().err)[0]
    assert main(typed(configmap, HAS | {"NAME": "cm"})) == 0
    assert main(typed(sign, HAS)) == 0
    to_public, serve = following()
    subprocess.run(shlex.split(to_public), check=True, capture_output=True)
    assert main(typed(serve, {})) == 0
    assert [(options.trust, options.name, options.uri) for options in served] == [("signed", "a-dir", "a dir")]
