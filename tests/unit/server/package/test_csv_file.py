"""Rows of a CSV file: the dtypes of the training, and mistakes with the option that corrects them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression

from mlmodel_server.cli import main
from mlmodel_server.errors import UsageError
from mlmodel_server.loading.load import load
from mlmodel_server.loading.sources import locate
from mlmodel_server.package.csv_file import CsvFile, like_dates
from tests.unit.server.models import joblib_bytes

TABLE = """age,city,since,mixed,y
30,Rome,2024-03-01,2024-03-01T09:30Z,yes
,Oslo,2024-03-02T09:30,2024-03-01T09:30+02:00,no
9007199254740993,Rome,,,yes
"""
MODEL = Path("model.onnx")  # any model that is not one of scikit-learn


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "data.csv").write_text(TABLE)
    return tmp_path / "data.csv"


def test_columns_are_those_of_pandas_unless_their_dtype_is_given(table: Path) -> None:
    X, y = CsvFile(table, "y").rows(MODEL)
    assert (list(X.columns), list(y)) == (["age", "city", "since", "mixed"], ["yes", "no", "yes"])
    assert X["age"].dtype == "float64"
    X, _ = CsvFile(table, "y", ["since"], {"age": "Int64", "city": "category"}).rows(MODEL)
    assert [str(dtype) for dtype in X.dtypes[:3]] == ["Int64", "category", "datetime64[us]"]
    assert X["age"].tolist() == [30, pd.NA, 9007199254740993], "which a float64 does not hold"


def test_categories_of_numbers_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("kind\n10\n20\n10\n")
    X, y = CsvFile(tmp_path / "data.csv", dtypes={"kind": "category"}).rows(MODEL)
    assert X["kind"].cat.categories.tolist() == [10, 20]
    assert y is None


@pytest.mark.parametrize(
    "dtype", ["datetime64[ns]", "datetime64[s]", "datetime64[us, Europe/Rome]", "datetime64[ns, UTC]"]
)
def test_dates_get_the_dtype_of_the_training(tmp_path: Path, dtype: str) -> None:
    offset = ["Z", "+02:00"] if "," in dtype else ["", ""]
    texts = [f"2024-03-01T09:30:00{offset[0]}", "", f"2024-07-02T00:00{offset[1]}"]
    (tmp_path / "data.csv").write_text("\n".join(["day,x", *(f"{text},1" for text in texts)]))
    X, _ = CsvFile(tmp_path / "data.csv", dtypes={"day": dtype}).rows(MODEL)
    assert str(X["day"].dtype) == dtype
    expected = [pd.Timestamp(text).tz_convert("UTC") if "," in dtype else pd.Timestamp(text) for text in texts if text]
    assert X["day"].dropna().tolist() == expected
    assert X["day"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dates": ["mixed"]}, r"or several offsets: change it, or give --dtypes 'mixed=datetime64\[us, UTC\]'"),
        ({"dtypes": {"mixed": "datetime64[us]"}}, "row 0: input 'mixed' must be a date in ISO 8601 without an offset"),
        (
            {"dtypes": {"since": "datetime64[us, UTC]"}},
            "row 0: input 'since' must be a date in ISO 8601 with an offset",
        ),
        (
            {"dtypes": {"since": "datetime64[us, Mars/North]"}},
            r"zone in 'datetime64\[us, Mars/North\]' is unknown",
        ),
        ({"label": "Y"}, r"has no column 'Y' \(did you mean 'y'\?\): give --label one of age, city, since, mixed, y"),
        ({"dates": ["sinc"]}, r"has no column 'sinc' \(did you mean 'since'\?\): give --dates one of"),
        ({"dtypes": {"agee": "Int64"}}, r"has no column 'agee' \(did you mean 'age'\?\): give --dtypes one of"),
        ({"dates": ["city"]}, "column 'city' of .* has a value that is not a date in ISO 8601"),
        ({"dtypes": {"age": "int64"}}, "'age' of .* int64 cannot hold: give --dtypes another, such as Int64 if values"),
        ({"dtypes": {"city": "float64"}}, "'city' of .* float64 cannot hold: give --dtypes another"),
        ({"dtypes": {"age": "Int8"}}, "'age' of .* Int8 cannot hold: give --dtypes another"),
    ],
)
def test_a_mistake_names_the_column_and_the_option(table: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        CsvFile(table, **{"label": "y", **options}).rows(MODEL)
    assert "Rome" not in str(caught.value)


@pytest.mark.parametrize(("separator", "shown"), [(";", "';'"), ("\t", r"'\t'"), ("|", "'|'")])
def test_another_separator_is_named_and_accepted(table: Path, separator: str, shown: str) -> None:
    table.write_text(TABLE.replace(",", separator))
    with pytest.raises(UsageError) as caught:
        CsvFile(table, "y").rows(MODEL)
    assert str(caught.value).endswith(f"is separated by {shown}, not by commas: add --separator {shown}")
    X, _ = CsvFile(table, "y", separator=separator).rows(MODEL)
    assert list(X.columns) == ["age", "city", "since", "mixed"]


@pytest.mark.parametrize("header", ["text", '"a;b",c', '"a,b"', "a b"])
def test_a_file_with_commas_or_one_column_is_read_as_it_is(tmp_path: Path, header: str) -> None:
    (tmp_path / "data.csv").write_text(f"{header}\n1\n")
    CsvFile(tmp_path / "data.csv").rows(MODEL)


def test_a_file_that_is_not_text_is_reported_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("a,b\nGröße,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"data\.csv is not in UTF-8: convert it"):
        CsvFile(tmp_path / "data.csv").rows(MODEL)


def test_a_column_that_the_model_lacks_gets_a_similar_one(table: Path) -> None:
    X = pd.DataFrame({"Age": [1.0, 2.0], "fee": [1.0, 2.0]})
    with pytest.raises(
        UsageError, match=r"lacks the column\(s\) 'Age' \(did you mean 'age'\?\), 'fee', which the model"
    ):
        CsvFile(table).rows(LogisticRegression().fit(X, [0, 1]))


def test_texts_that_are_dates_are_found() -> None:
    X = pd.DataFrame({
        "day": ["2024-03-01", None], "time": ["2024-03-01T09:30:00Z", "2024-03-01 09:30"], "some": ["2024-03-01", "x"],
        "number": [1, 2], "none": [None, None], "real": pd.to_datetime(["2024-03-01", "2024-03-02"]),
    })  # fmt: skip
    assert like_dates(X) == ["day", "time"]
    assert like_dates(X.to_numpy()) == []


@pytest.mark.models
def test_the_command_line_names_the_option_of_columns_that_look_like_dates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    days = pd.DataFrame({"order day": pd.date_range("2024-01-01", periods=40), "x": np.arange(40.0)})
    y = ["a", "b"] * 20
    days.assign(y=y).to_csv("data.csv", index=False)
    number = make_pipeline(ColumnTransformer([("d", StandardScaler(), ["order day"])]), LogisticRegression()).fit(
        days, y
    )
    text = make_pipeline(ColumnTransformer([("d", OneHotEncoder(handle_unknown="ignore"), ["order day"])]),
                         LogisticRegression()).fit(days.astype({"order day": str}), y)  # fmt: skip
    command = ["package", "m.joblib", "--data", "data.csv", "--label", "y", "--out", "out", "--no-compile"]
    Path("m.joblib").write_bytes(joblib_bytes(number))
    assert main(command) == 2
    assert "; if the model was fitted on dates, add --dates 'order day'\n" in capsys.readouterr().err
    assert main([*command, "--dates", "order day"]) == 0
    assert "look" not in capsys.readouterr().err
    Path("m.joblib").write_bytes(joblib_bytes(text))
    assert main(command) == 0, "a model may take dates as text"
    assert "order day is packaged as text that looks like dates" in capsys.readouterr().err


@pytest.mark.models
@pytest.mark.parametrize("kinds", [["a", "b"], [10, 20]])
def test_a_model_of_categories_is_packaged_from_a_file(kinds: list[Any], tmp_path: Path) -> None:
    X = pd.DataFrame({"kind": pd.Categorical(kinds * 30), "x": np.arange(60.0)})
    y = np.arange(60) // 7 % 2
    (tmp_path / "m.joblib").write_bytes(joblib_bytes(LGBMClassifier(n_estimators=3, verbose=-1).fit(X, y)))
    X.assign(y=y).to_csv(tmp_path / "data.csv", index=False)
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv"), "--label", "y"]
    command += ["--out", str(tmp_path / "out"), "--no-compile"]
    assert main(command) == 2
    assert main([*command, "--dtypes", "kind=category"]) == 0
    described = load(locate(str(tmp_path / "out"), None, "")).manifest
    assert described is not None
    assert described.signature.inputs[0].column is not None
    assert list(described.signature.inputs[0].column.categories) == kinds


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--dtypes", "visits"], "'visits' is not valid: give COLUMN=DTYPE, such as visits=Int64"),
        (["--dtypes", "visits=int"], "unknown dtype 'int'"),
        (["--dtypes", "visits=int46"], "(did you mean 'int64'?)"),
        (["--dtypes", "day=datetime"], "or --dates day"),
        (["--separator", ";;"], "';;' is not one character"),
    ],
)
def test_a_wrong_option_says_what_to_give(option: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["package", "m.joblib", *option])
    assert words in capsys.readouterr().err
