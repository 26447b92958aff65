"""The compiled model of the package serves if it is faster and passes its self-test, else the model as it was saved."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from mlmodel_server import manifest, package
from mlmodel_server.compile import Verdict, timing
from mlmodel_server.loading.load import Loaded, load
from mlmodel_server.loading.sources import Memory
from mlmodel_server.manifest import MANIFEST
from mlmodel_server.startup import choose as module
from mlmodel_server.startup.choose import PLATFORM, choose
from tests.unit.server.models import iris, joblib_bytes


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A package with a compiled model."""
    return package.build(*iris())


def changed(files: dict[str, bytes], onnx: bytes | None = None, **compiled: Any) -> Loaded:
    """The package with another verdict or another compiled model, and with correct digests."""
    described = manifest.parse(files[MANIFEST])
    assert described.compiled is not None
    verdict = msgspec.structs.replace(described.compiled, **({"decisive": True} | compiled))
    new = dict(files)
    listed = dict(described.files)
    if onnx is not None:
        new["compiled.onnx"] = onnx
        listed["compiled.onnx"] = manifest.File(manifest.sha256(onnx), len(onnx))
    new[MANIFEST] = msgspec.structs.replace(described, compiled=verdict, files=listed).to_bytes()
    return load(Memory(new))


def test_a_decisive_verdict_serves_without_opening_the_artefact(files: dict[str, bytes]) -> None:
    loaded = changed(files)
    chosen = choose(loaded)
    assert chosen.platform == PLATFORM
    assert "compiled to ONNX when it was packaged" in chosen.verdict
    assert "opened" not in vars(loaded), "the artefact was opened"


def test_off_serves_the_model_as_it_was_saved(files: dict[str, bytes]) -> None:
    chosen = choose(changed(files), "off")
    assert (chosen.platform, chosen.verdict) == ("sklearn_skops", "")


@pytest.mark.parametrize(
    ("broken", "event"),
    [("no onnx", "compiled model not loaded"), ("another model", "compiled model failed its self-test")],
)
def test_a_wrong_compiled_model_does_not_serve(
    files: dict[str, bytes], broken: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, X, y = iris()
    other = package.build(type(iris()[0])(max_iter=500).fit(X, (y + 1) % 3), X, (y + 1) % 3)["compiled.onnx"]
    loaded = changed(files, onnx=b"no onnx" if broken == "no onnx" else other)
    with caplog.at_level(logging.WARNING, "mlmodel_server"):
        assert choose(loaded).platform == "sklearn_skops"
    assert caplog.messages == [event]


@pytest.mark.parametrize(("chosen", "platform"), [("onnx", PLATFORM), ("original", "sklearn_skops")])
def test_without_a_decisive_verdict_both_are_timed_again(
    files: dict[str, bytes], chosen: Any, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "faster", lambda *_: chosen == "onnx")
    found = choose(changed(files, decisive=False))
    assert found.platform == platform
    assert ("faster on this CPU too" if chosen == "onnx" else "not faster on this CPU") in found.verdict


def test_a_failed_compilation_is_not_repeated(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compile_in_child", lambda *_, **__: pytest.fail("it was compiled again"))
    described = manifest.parse(files[MANIFEST])
    tried = msgspec.structs.replace(described, compiled=manifest.Compiled(reason="it has no formula"))
    assert choose(load(Memory(files | {MANIFEST: tried.to_bytes()}))).verdict == "not compiled: it has no formula"


def test_a_model_without_a_package_is_compiled_at_the_start() -> None:
    loaded = load(Memory({"iris.joblib": joblib_bytes(iris()[0])}, "iris.joblib"))
    assert choose(loaded).platform == PLATFORM


def test_a_failed_conversion_serves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compile_in_child", lambda *_, **__: (Verdict("original", "it crashed"), None))
    chosen = choose(load(Memory({"iris.joblib": joblib_bytes(iris()[0])}, "iris.joblib")))
    assert (chosen.platform, chosen.verdict) == ("sklearn_joblib", "not compiled: it crashed")
