"""What ``mlmodel inspect`` prints: the content of a package or model file, opened as a server opens it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mlmodel_server.compile import how_to_get
from mlmodel_server.engine import selftest
from mlmodel_server.engine.cost import measure
from mlmodel_server.engine.model import Model, model_of
from mlmodel_server.engine.selftest import LIKE_DATES
from mlmodel_server.errors import UnreachableSource, UsageError
from mlmodel_server.formats.table import versions
from mlmodel_server.loading.load import Loaded, load
from mlmodel_server.loading.signing import SIGNATURE
from mlmodel_server.loading.sources import Source, locate
from mlmodel_server.manifest import Manifest, Signature
from mlmodel_server.protocol import v2
from mlmodel_server.startup.choose import PLATFORM, Choice, choose


def report(path: Path, keys: Sequence[bytes], name: str, threads: int) -> Iterator[str]:
    """Yield the lines. With ``keys`` the package is opened as with ``--trust signed``, as the model ``name``.

    Raise :class:`RefusedModel` if a server would reject the model.
    """
    try:
        source = locate(str(path), None, "")
    except UnreachableSource as error:
        raise UsageError(f"{path}: {error}") from None
    loaded = load(source, trust="signed", keys=keys, name=name) if keys else load(source)
    manifest = loaded.manifest
    model = model_of(loaded.opened, manifest)
    yield _files(source, loaded, name)
    if manifest:
        selftest.run(model, manifest.golden, manifest.libraries)
        choice = choose(loaded, threads=threads)
        yield _columns(model.signature, choice.model.signature)
        yield _description(manifest)
        yield f"one row takes {_times(loaded, model, choice)}\n"
        if compiled := manifest.compiled:
            yield f"{'compiled to ONNX' if compiled.file else 'not compiled'}: {compiled.reason}\n"
        yield f"self-test passed on {manifest.golden.inputs[0]['shape'][0]} golden examples\n"
    else:
        selftest.example(model, loaded.opened.example, loaded.opened.saved_with)
        yield _columns(model.signature, model.signature)  # a bare file is served with all of its outputs
        if dated := loaded.opened.like_dates:
            yield f"{', '.join(dated)}: {LIKE_DATES}\n"
    trust = "signed" if loaded.signed_by else "strict"
    yield f"a server with {versions(loaded.format)} accepts it: {loaded.format}, --trust {trust}\n"


def _files(source: Source, loaded: Loaded, name: str) -> str:
    lines = [f"{source.entry}  sha256 {loaded.sha256}"]
    if loaded.manifest:
        listed = sorted(loaded.manifest.files.items())
        lines += [f"{file}  sha256 {known.sha256}  {known.bytes:,} bytes" for file, known in listed]
    if loaded.signed_by:
        lines.append(f"{SIGNATURE}  signed as {name} with the key {loaded.signed_by[:16]}")
    elif SIGNATURE in source.names():
        lines.append(f"{SIGNATURE}  signed: a server with --trust signed checks with which key")
    return "\n".join([*lines, ""])


def _columns(signature: Signature, served: Signature) -> str:
    """Return the lines about inputs, outputs and classes; ``served`` has the outputs that a server has here."""
    known = {spec.name for spec in served.outputs}
    absent = [spec.name for spec in signature.outputs if spec.name not in known]
    lines = [f"input   {spec.name}  {spec.datatype} {list(spec.shape)}" for spec in signature.inputs]
    for spec in signature.outputs:
        mark = "  (not served)" if spec.name in absent else ""
        lines.append(f"output  {spec.name}  {spec.datatype} {list(spec.shape)}{mark}")
    if absent:
        lines.append(f"a server has only the compiled model, which is faster: {how_to_get(absent)}")
    if signature.classes:
        lines.append(f"classes {', '.join(signature.classes)}")
    return "\n".join([*lines, ""])


def _description(manifest: Manifest) -> str:
    lines = [f"version {manifest.version}"] if manifest.version else []
    for key, value in manifest.metrics.items():
        lines.append(f"metric  {key} {value:.4f}" if isinstance(value, float) else f"metric  {key} {value}")
    lines.append("made with " + ", ".join(f"{key} {value}" for key, value in manifest.libraries.items()))
    return "\n".join([*lines, ""])


def _times(loaded: Loaded, saved: Model, choice: Choice) -> str:
    """Return the time of a prediction of one row by the model as it was saved, and by what a server serves."""
    request = v2.decode(choice.example)

    def time_of(model: Model) -> str:
        table, outputs = model.table(request.inputs), model.select_outputs(None)
        return f"{1e6 * measure(lambda: model.predict(table, outputs)):,.0f} µs"

    as_saved = f"{time_of(saved)} as it was saved"
    if loaded.manifest and loaded.manifest.compiled and choice.platform == PLATFORM:
        return f"{as_saved}, {time_of(choice.model)} compiled, which a server here serves"
    return f"{as_saved}, which a server here serves"
