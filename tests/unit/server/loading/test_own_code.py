"""A package with its author's own code: served when it is signed, and only from the bytes that were signed."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from mlmodel_server import manifest, package
from mlmodel_server.cli import main
from mlmodel_server.engine import selftest
from mlmodel_server.engine.model import model_of
from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.loading import own_code
from mlmodel_server.loading.load import Loaded, load
from mlmodel_server.loading.signing import SIGNATURE, sign
from mlmodel_server.loading.sources import Local, Memory
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.package import fresh
from mlmodel_server.protocol import v2
from tests.unit.server.loading.test_signing import key, pem, public
from tests.unit.server.models import iris, joblib_bytes
from tests.unit.server.own_modules import SOURCE, fitted, fitted_transformer, forgotten, imported

SIGNED: dict[str, Any] = {"trust": "signed", "keys": [public(key())], "name": "model"}

pytestmark = pytest.mark.models


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    """Leave no module of a package importable."""
    yield
    own_code._FINDER.replace({})


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages are not opened in a fresh process (2 s) when they are built: for tests that open them themselves."""
    monkeypatch.setattr(fresh, "check", lambda _files: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a package of :func:`fitted`, which is not signed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh, "check", lambda _files: None)
        module = imported(tmp_path_factory.mktemp("built"), patch)
        files = package.build(*fitted(module), code=[module])
        forgotten(patch, "clipping")
    return files


def signed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, SIGNATURE: sign(files, pem(key()), "model")}


def answer(loaded: Loaded, X: Any, output: str = "predict") -> Any:
    model = model_of(loaded.opened, loaded.manifest)
    assert loaded.manifest is not None
    selftest.run(model, loaded.manifest.golden)
    body = {
        "inputs": [{"name": "input-0", "shape": list(X.shape), "datatype": "FP64", "data": X.tolist()}],
        "outputs": [{"name": output}],
    }
    return model.infer(v2.decode(json.dumps(body).encode())).outputs[0].array


@pytest.mark.parametrize("make", [fitted, fitted_transformer])
def test_a_signed_package_answers_as_the_authors_model(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = make(module)
    labels, probabilities = model.predict(X), model.predict_proba(X)
    files = package.build(model, X, y, code=[module])
    forgotten(monkeypatch, "clipping")
    (tmp_path / "clipping.py").write_text("raise SystemExit('imported from the disk')")
    loaded = load(Memory(signed(files)), **SIGNED)
    np.testing.assert_array_equal(answer(loaded, X), labels)
    np.testing.assert_allclose(answer(loaded, X, "predict_proba"), probabilities, rtol=1e-12)
    described = manifest.parse(files[MANIFEST])
    assert described.files["code.clipping.py"].sha256 == manifest.sha256(SOURCE.encode())
    assert described.signature.inputs[0].shape == (-1, 4)
    assert described.signature.classes == ("0", "1", "2")
    assert described.profile
    assert described.metrics["accuracy"] > 0.9
    assert described.compiled is not None
    assert not described.compiled.file


@pytest.mark.attack(held=True)
def test_without_a_signature_nothing_of_it_runs(
    built: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKER", str(tmp_path / "ran"))
    with pytest.raises(RefusedModel, match=r"Python code \(clipping\), which strict never runs: sign it with mlmodel"):
        load(Memory(built))
    with pytest.raises(RefusedModel, match=r"which strict never runs"):
        load(Memory(signed(built)))
    with pytest.raises(RefusedModel, match="the model is not signed"):
        load(Memory(built), **SIGNED)
    assert not (tmp_path / "ran").exists()


@pytest.mark.attack(held=True)
@pytest.mark.parametrize("file", ["code.clipping.py", "code.other.py", "model.joblib"])
def test_a_changed_or_added_file_is_refused_before_anything_runs(
    file: str, built: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = signed(built)
    monkeypatch.setenv("MARKER", str(tmp_path / "ran"))
    changed = {**files, file: files.get(file, b"") + b"\n"}
    with pytest.raises(RefusedModel, match=f"the signature does not match the files: {file}"):
        load(Memory(changed), **SIGNED)
    assert not (tmp_path / "ran").exists()


def listed(files: dict[str, bytes], **more: bytes) -> dict[str, bytes]:
    """Return the files with others that the description lists too, signed."""
    described = json.loads(files[MANIFEST])
    for name, data in more.items():
        described["files"][name] = {"sha256": manifest.sha256(data), "bytes": len(data)}
    return signed({**files, **more, MANIFEST: json.dumps(described).encode()})


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("code.json.py", "json is a library of this server or a part of Python: rename the module"),
        ("code.numpy.py", "numpy is a library of this server"),
        ("code.mlmodel_server.py", "mlmodel_server is a library of this server"),
        ("code.__main__.py", "__main__ is a library of this server or a part of Python"),
        ("code.class.py", "'class' cannot be imported"),
        ("code.a.b.py", r"the module a\.b, but not code\.a\.__init__\.py"),
        ("code..a.py", "cannot be imported"),
        ("code.clipping.__init__.py", "the module clipping twice"),
    ],
)
def test_a_module_with_the_name_of_a_library_is_refused(file: str, words: str, built: dict[str, bytes]) -> None:
    with pytest.raises(RefusedModel, match=words):
        load(Memory(listed(built, **{file: b""})), **SIGNED)


@pytest.mark.attack(held=True)
def test_no_module_beside_the_model_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"import helper\n{SOURCE}"
    module = imported(tmp_path / "src", monkeypatch, source=source, helper="")
    model, X, y = fitted(module)
    with pytest.raises(
        UsageError, match=r"imports helper, which is neither .* package again with code=\[clipping, helper\]"
    ):
        package.build(model, X, y, code=[module])
    directory = package.save(model, X, y, tmp_path / "model", code=[module, tmp_path / "src" / "helper.py"])
    described = json.loads((directory / MANIFEST).read_bytes())
    del described["files"]["code.helper.py"]
    (directory / MANIFEST).write_text(json.dumps(described))
    (directory / "code.helper.py").rename(directory / "helper.py")
    (directory / "helper.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (directory / SIGNATURE).write_bytes(
        sign({p.name: p.read_bytes() for p in directory.iterdir()}, pem(key()), "model")
    )
    forgotten(monkeypatch, "clipping", "helper")
    monkeypatch.syspath_prepend(directory)
    with pytest.raises(RefusedModel, match="clipping imports helper, which is neither a library of this server nor in"):
        _ = load(Local(directory), **SIGNED).opened
    assert not (tmp_path / "ran").exists()


def test_a_package_directory_is_imported_with_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = tmp_path / "shop"
    (shop / "deep").mkdir(parents=True)
    (shop / "__pycache__").mkdir()
    (shop / "__init__.py").write_text("from shop.deep.clipping import Clip, Nearest")
    (shop / "deep" / "__init__.py").write_text("")
    (shop / "deep" / "clipping.py").write_text(SOURCE)
    (shop / "notes.txt").write_text("not code")
    monkeypatch.syspath_prepend(tmp_path)
    import shop as module  # type: ignore[import-not-found]

    model, X, y = fitted(module)
    expected = model.predict(X)
    files = package.build(model, X, y, code=[module])
    assert [file for file in sorted(files) if own_code.is_code(file)] == [
        "code.shop.__init__.py",
        "code.shop.deep.__init__.py",
        "code.shop.deep.clipping.py",
    ]
    monkeypatch.setattr(fresh, "check", lambda _files: None)  # of the same files
    assert files == package.build(model, X, y, code=[str(shop)]), "also by path, with the same bytes"
    assert files == package.build(model, X, y, code=[sys.modules["shop.deep.clipping"]]), "also by a part of it"
    forgotten(monkeypatch, "shop", "shop.deep", "shop.deep.clipping")
    np.testing.assert_array_equal(answer(load(Memory(signed(files)), **SIGNED), X), expected)
    (shop / "fast.so").write_bytes(b"\x7fELF")
    with pytest.raises(UsageError, match=r"shop has compiled code \(fast\.so\)"):
        package.build(model, X, y, code=[shop])


def test_a_refusal_of_an_own_class_says_how_to_serve_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = fitted(module)
    how = (
        r"package\.save\(model, X, y, DIR, code=\[clipping\]\), or mlmodel package FILE --data rows\.csv --code "
        r"clipping\.py --out DIR; sign it with mlmodel package DIR --sign KEY --name NAME, and serve it with mlmodel "
        r"serve DIR --name NAME --trust signed"
    )
    with pytest.raises(UsageError, match=how):
        package.build(model, X, y)
    bare = {"model.joblib": joblib_bytes(model)}
    with pytest.raises(RefusedModel, match=how):
        _ = load(Memory(bare, "model.joblib")).opened
    forgotten(monkeypatch, "clipping")
    with pytest.raises(RefusedModel, match=how):  # its module is on sys.path, but neither installed nor signed
        _ = load(Memory(signed(bare), "model.joblib"), **SIGNED).opened
    with pytest.raises(UsageError, match="joblib"):
        package.build(model, X, y, code=[module], format="skops")


def test_a_class_of_main_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = fitted(module)
    script = sys.modules["__main__"]
    for cls in (module.Clip, module.Nearest):
        monkeypatch.setattr(cls, "__module__", "__main__")
        monkeypatch.setattr(script, cls.__name__, cls, raising=False)
    words = r"move it into a module, such as transformers\.py"
    for code in ([], [module]):
        with pytest.raises(UsageError, match=words):
            package.build(model, X, y, code=code)
    with pytest.raises(UsageError, match=words):
        package.build(model, X, y, code=[script])
    bare = {"model.joblib": joblib_bytes(model)}
    monkeypatch.delattr(script, "Clip")
    with pytest.raises(RefusedModel, match=words):
        _ = load(Memory(signed(bare), "model.joblib"), **SIGNED).opened


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (["missing.py"], r"missing\.py is neither a \.py file nor a directory with an __init__\.py"),
        (["json.py"], "json is a library of this server or a part of Python: rename the module"),
        (["folder"], r"folder is neither a \.py file nor"),
        (["data.csv"], r"data\.csv is not Python source"),
        (["my-code.py"], "'my-code' cannot be imported: give the module a name of letters, digits and _"),
        ([np], r"numpy .*compiled code|numpy is a library"),
        ([sys], "the module sys has no source file"),
        (["broken.py"], r"the package's module broken cannot be imported \(SyntaxError.*code=\[broken\]"),
        (["raising.py"], r"the package's module raising cannot be imported \(SystemExit\)"),
    ],
)
def test_what_is_no_module_is_refused_when_the_package_is_saved(
    code: list[Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("json.py", ""), ("data.csv", ""), ("my-code.py", ""), ("broken.py", "def"), ("raising.py", "raise SystemExit"),
    ):  # fmt: skip
        Path(name).write_text(text)
    Path("folder").mkdir()
    with pytest.raises(UsageError, match=words):
        package.build(*iris(), code=code)


def test_a_class_that_was_changed_after_the_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = fitted(module)
    (tmp_path / "clipping.py").write_text(SOURCE.replace("argmin", "argmax"))
    with pytest.raises(UsageError, match="a server would not open the package: self-test: 12 of 12 golden examples"):
        package.build(model, X, y, code=[module])


def test_the_command_line_packages_signs_and_inspects_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = imported(tmp_path / "src", monkeypatch)
    model, X, y = fitted(module)
    labels = model.predict(X)
    joblib.dump(model, tmp_path / "m.joblib")
    table = np.column_stack([X, y])
    np.savetxt(tmp_path / "data.csv", table, delimiter=",", header="a,b,c,d,label", comments="")
    (tmp_path / "key").write_bytes(pem(key()))
    (tmp_path / "key.pub").write_bytes(public(key()))
    forgotten(monkeypatch, "clipping")
    sys.path.remove(str(tmp_path / "src"))
    out = tmp_path / "model"
    command = ["package", str(tmp_path / "m.joblib"), "--data", str(tmp_path / "data.csv"), "--label", "label"]
    assert main([*command, "--out", str(out)]) == 2
    assert "code=[clipping]" in capsys.readouterr().err
    code = ["--code", str(tmp_path / "src" / "clipping.py")]
    assert main([*command, "--out", str(out), *code, "--sign", str(tmp_path / "key"), "--configmap", "m"]) == 0
    assert '"code.clipping.py"' in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 2
    assert "sign it with mlmodel package DIR --sign KEY" in capsys.readouterr().err
    assert main(["inspect", str(out), "--signing-keys", str(tmp_path / "key.pub")]) == 0
    assert "--trust signed" in capsys.readouterr().out
    np.testing.assert_array_equal(answer(load(Local(out), **SIGNED), X), labels)


@pytest.mark.usefixtures("unchecked")
def test_two_packages_with_different_modules_of_one_name_are_opened_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = fitted(module)
    files = package.build(model, X, y, code=[module])
    labels = model.predict(X)
    forgotten(monkeypatch, "clipping")
    opposite = imported(tmp_path / "opposite", monkeypatch, source=SOURCE.replace("argmin", "argmax"))
    others = package.build(*fitted(opposite), code=[opposite])
    with pytest.raises(RefusedModel, match="this process has imported another module clipping"):
        _ = load(Memory(signed(files)), **SIGNED).opened
    forgotten(monkeypatch, "clipping")
    np.testing.assert_array_equal(answer(load(Memory(signed(files)), **SIGNED), X), labels)
    assert (answer(load(Memory(signed(others)), **SIGNED), X) != labels).all()
    np.testing.assert_array_equal(answer(load(Memory(signed(files)), **SIGNED), X), labels)


@pytest.mark.usefixtures("unchecked")
def test_a_finder_that_a_library_puts_first_does_not_hide_the_modules_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(tmp_path, monkeypatch)
    model, X, y = fitted(module)
    files = signed(package.build(model, X, y, code=[module]))
    labels = model.predict(X)

    class Another:
        def find_spec(self, *_: object) -> None:
            """Find nothing."""

    monkeypatch.setattr(sys, "meta_path", [own_code._FINDER, *sys.meta_path])
    sys.meta_path.insert(0, Another())
    forgotten(monkeypatch, "clipping")
    np.testing.assert_array_equal(answer(load(Memory(files), **SIGNED), X), labels)


def test_installed_libraries_are_not_modules_of_a_package() -> None:
    for name in ("json", "numpy", "sklearn", "pandas", "mlmodel_server", "sys"):
        assert own_code.is_library(name), name
    for name in ("clipping", "tests", "hack", "transformers_of_mine"):
        assert not own_code.is_library(name), name
    assert isinstance(own_code, types.ModuleType)
