"""A package of any estimator: its outputs, the one that a request gets that names none, and its golden examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline

from mlmodel_server import manifest, package
from mlmodel_server.cli import main
from mlmodel_server.compile import how_to_get
from mlmodel_server.errors import RequestError, UsageError
from mlmodel_server.loading.load import Loaded, load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.startup.choose import PLATFORM, choose
from mlmodel_server.tensors import InferRequest, Tensor
from tests.unit.server.models import joblib_bytes

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("compiled_is_faster")]

SEED = 20261129
X = np.random.default_rng(SEED).normal(size=(60, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
TEXTS = ["a good movie", "a bad film", "good day", "awful night, really"] * 10
MOODS = ["good", "bad"] * 20


def loaded(files: dict[str, bytes], decisive: bool | None = None) -> Loaded:
    described = manifest.parse(files[MANIFEST])
    if decisive is not None and described.compiled:
        compiled = msgspec.structs.replace(described.compiled, decisive=decisive)
        files = files | {MANIFEST: msgspec.structs.replace(described, compiled=compiled).to_bytes()}
    return load(Memory(files))


def outputs(files: dict[str, bytes]) -> list[str]:
    return [spec.name for spec in manifest.parse(files[MANIFEST]).signature.outputs]


@pytest.mark.parametrize(
    ("model", "names", "default"),
    [
        (PCA(2).fit(X), ["score_samples", "transform"], ("transform",)),
        (KernelDensity().fit(X), ["score_samples"], ("score_samples",)),
        (
            NearestNeighbors(n_neighbors=2).fit(X),
            ["kneighbors_distances", "kneighbors_indices"],
            ("kneighbors_distances", "kneighbors_indices"),
        ),
        (KMeans(2, n_init=1, random_state=1).fit(X), ["predict", "transform"], ("predict",)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_estimator_of_any_kind_is_packaged(model: Any, names: list[str], default: tuple[str, ...]) -> None:
    files = package.build(model, X, None)
    described = manifest.parse(files[MANIFEST])
    assert outputs(files) == names
    assert [output["name"] for output in described.golden.outputs] == names
    assert choose(loaded(files)).model.select_outputs(None) == default
    if "predict" not in names:
        assert described.predictions == {}
        assert described.compiled is None


def test_the_method_of_a_request_that_names_no_output_is_fixed_at_packaging() -> None:
    model = LogisticRegression().fit(X, Y)
    files = package.build(model, X, Y, method="predict_proba")
    served = choose(loaded(files)).model
    answer = served.infer(InferRequest(None, [Tensor("input-0", "FP64", X)], None))
    assert [tensor.name for tensor in answer.outputs] == ["predict_proba"]
    np.testing.assert_allclose(answer.outputs[0].array, model.predict_proba(X))
    assert manifest.parse(files[MANIFEST]).metrics["accuracy"] > 0.9, "the metrics are those of predict"
    scores = package.build(model, X, Y, method="decision_function")
    assert manifest.parse(scores[MANIFEST]).compiled is None
    assert choose(loaded(scores)).model.select_outputs(None) == ("decision_function",)


def test_probabilities_of_several_targets_can_be_the_default() -> None:
    model = RandomForestClassifier(3, random_state=1).fit(X, np.column_stack([Y, 1 - Y]))
    files = package.build(model, X, None, method="predict_proba")
    assert outputs(files) == ["predict", "predict_proba_0", "predict_proba_1"]
    assert choose(loaded(files)).model.select_outputs(None) == ("predict_proba_0", "predict_proba_1")


def test_a_compiled_model_that_serves_alone_says_how_to_get_the_other_outputs() -> None:
    chosen = choose(loaded(package.build(LogisticRegression().fit(X, Y), X, Y), decisive=True))
    assert chosen.platform == PLATFORM
    assert [spec.name for spec in chosen.model.signature.outputs] == ["predict", "predict_proba"]
    with pytest.raises(
        RequestError, match=r"for decision_function, package the model with outputs=\['decision_function'\]"
    ):
        chosen.model.select_outputs(["decision_function"])


HOW = (
    r"package the model with outputs=\['decision_function', 'score_samples'\] "
    r"\(--outputs decision_function,score_samples\)"
)


def test_outputs_that_a_server_does_not_have_are_named_where_a_package_is_written_and_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An outlier detector without scores gives only 1 and -1."""
    model = IsolationForest(n_estimators=10, random_state=SEED).fit(X)
    files = package.build(model, X, None)
    described = manifest.parse(files[MANIFEST])
    assert described.compiled is not None
    alone = msgspec.structs.replace(described.compiled, decisive=True)  # on a slow machine it may not be
    files[MANIFEST] = msgspec.structs.replace(described, compiled=alone).to_bytes()
    monkeypatch.setattr("mlmodel_server.package.write.build", lambda *_given, **_options: files)
    with pytest.warns(UserWarning, match=f"answers only predict, from the compiled model: .*{HOW}"):
        directory = package.save(model, X, None, tmp_path / "out")
    assert main(["inspect", str(directory)]) == 0
    shown = capsys.readouterr().out
    served = [spec.name for spec in choose(load(Memory(files))).model.signature.outputs]
    assert re.findall(r"^output  (\w+)  \S+ \S+$", shown, re.MULTILINE) == served == ["predict"]
    assert re.findall(r"^output  (\w+)  .*not served", shown, re.MULTILINE) == ["decision_function", "score_samples"]
    assert re.search(HOW, shown)
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(model))
    pd.DataFrame(X).to_csv(tmp_path / "data.csv", index=False)
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv"), "--out", str(directory)]
    assert main(command) == 0
    assert re.search(HOW, capsys.readouterr().err)


def test_outputs_of_one_method_are_named_by_the_method() -> None:
    model = KNeighborsClassifier(3).fit(X, Y)
    (named,) = re.findall(r"--outputs (\S+)\)", how_to_get(["kneighbors_distances", "kneighbors_indices"]))
    files = package.build(model, X, Y, outputs=named.split(","))
    assert {"kneighbors_distances", "kneighbors_indices"} <= set(outputs(files))


def test_a_package_with_named_outputs_says_nothing_because_a_server_has_them(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    model = IsolationForest(n_estimators=10, random_state=SEED).fit(X)
    directory = package.save(model, X, None, tmp_path / "out", outputs=["decision_function", "score_samples"])
    package.save(LogisticRegression().fit(X, Y), X, Y, tmp_path / "classifier")
    assert not [found for found in recwarn if "answers only" in str(found.message)]
    assert main(["inspect", str(directory)]) == 0
    assert "not served" not in capsys.readouterr().out


def test_an_output_that_a_package_must_name_says_so() -> None:
    files = package.build(LogisticRegression().fit(X, Y), X, Y, compile=False)
    with pytest.raises(RequestError, match=r"if it is packaged with outputs=\['predict_log_proba'\]"):
        choose(loaded(files), compile="off").model.select_outputs(["predict_log_proba"])


def test_named_outputs_are_served_beside_the_compiled_model() -> None:
    model = LogisticRegression().fit(X, Y)
    files = package.build(model, X, Y, outputs=["decision_function"])
    described = manifest.parse(files[MANIFEST])
    assert described.compiled is not None
    assert not described.compiled.decisive
    answer = choose(loaded(files)).model.infer(
        InferRequest(None, [Tensor("input-0", "FP64", X)], ["decision_function", "predict"])
    )
    np.testing.assert_array_equal(answer.outputs[0].array, model.decision_function(X))
    assert outputs(package.build(model, X, Y, outputs=[])) == ["predict", "predict_proba"]


@pytest.mark.parametrize("convert", [list, np.array, pd.Series], ids=["list", "array", "Series"])
def test_a_model_of_texts_is_packaged(convert: Any, tmp_path: Path) -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, MOODS)
    files = package.build(model, convert(TEXTS), MOODS)
    described = manifest.parse(files[MANIFEST])
    assert [(spec.name, spec.datatype) for spec in described.signature.inputs] == [("text", "BYTES")]
    assert described.metrics["accuracy"] == 1.0
    served = choose(loaded(files)).model
    asked = np.array(["good", "what a bad film"], object)
    for name in ("predict", "predict_proba", "decision_function"):
        (answer,) = served.infer(InferRequest(None, [Tensor("text", "BYTES", asked)], [name])).outputs
        np.testing.assert_array_equal(answer.array, getattr(model, name)(asked))


def test_a_wide_answer_is_an_output_without_golden_examples() -> None:
    words = [f"word{index} again" for index in range(2000)]
    files = package.build(CountVectorizer().fit(words), words, None)
    assert outputs(files) == ["transform"]
    assert manifest.parse(files[MANIFEST]).golden.outputs == ()
    chosen = choose(loaded(files))
    (answer,) = chosen.model.infer(
        InferRequest(None, [Tensor("text", "BYTES", np.array(words[:3], object))], None)
    ).outputs
    assert answer.array.sum() == 6


def test_an_answer_that_has_no_row_for_each_row_is_no_output() -> None:
    members = [("a", LogisticRegression()), ("b", GaussianNB())]
    model = VotingClassifier(members, voting="soft", flatten_transform=False).fit(X, Y)
    assert model.transform(X).shape == (2, 60, 2)
    assert outputs(package.build(model, X, Y)) == ["predict", "predict_proba"]
    signature = load(Memory({"m": joblib_bytes(model)}, "m")).opened.signature
    assert signature is not None
    assert [spec.name for spec in signature.outputs] == ["predict", "predict_proba"]


def test_a_table_is_not_a_list_of_texts() -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, MOODS)
    with pytest.raises(UsageError, match=r"takes texts, not a table: pass one column"):
        package.build(model, pd.DataFrame({"text": TEXTS}), MOODS)
    with pytest.raises(UsageError, match="row 1 of X is not a text"):
        package.build(model, ["good", None], None)


def test_a_model_of_dictionaries_is_packaged() -> None:
    people = [{"city": "Rome", "age": 30}, {"city": "Oslo", "age": 5, "new": True}, {"age": 41}] * 10
    model = make_pipeline(DictVectorizer(), Ridge()).fit(people, np.arange(30.0))
    files = package.build(model, [*people, {"city": None, "unknown": "x"}], None)
    signature = manifest.parse(files[MANIFEST]).signature
    assert {spec.name: spec.datatype for spec in signature.inputs} == {"age": "FP64", "city": "BYTES", "new": "FP64"}
    choose(loaded(files))
    with pytest.raises(UsageError, match="has a str as 'age', which the model knows as a number"):
        package.build(model, [{"age": "old"}], None)


@pytest.mark.parametrize("separator", ["=", ":"])
@pytest.mark.parametrize("value", [lambda row: row % 5, lambda row: "xyz"[row % 3]], ids=["number", "text"])
def test_a_key_with_the_separator_is_refused_because_the_model_knows_another_name(separator: str, value: Any) -> None:
    rows = [{f"a{separator}b": value(row), "c": row} for row in range(40)]
    model = make_pipeline(DictVectorizer(separator=separator), LogisticRegression()).fit(rows, [0, 1] * 20)
    with pytest.raises(UsageError, match=f"key 'a{separator}b' has '{separator}', which separates a key from its text"):
        package.build(model, rows, None, compile=False)
    other = make_pipeline(DictVectorizer(separator="|"), LogisticRegression()).fit(rows, [0, 1] * 20)
    files = package.build(other, rows, None, compile=False)
    assert {spec.name for spec in manifest.parse(files[MANIFEST]).signature.inputs} == {f"a{separator}b", "c"}
