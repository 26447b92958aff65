"""The command ``mlmodel``: serve, package, sign and inspect models on a laptop.

Every error is one sentence that says what to type instead, and exit code 2; ``serve`` has the exit codes of the server.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

from mlmodel_server.errors import MLModelError, UsageError
from mlmodel_server.startup.options import Parser, add_version
from mlmodel_server.texts import guess


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except MLModelError as error:
        sys.stderr.write(f"mlmodel: {error}\n")
        return 2
    except BrokenPipeError:  # piped into head
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mlmodel", description="Serve, package, sign and inspect models on a laptop.")
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="serve a model as in the cluster, with a page to try it",
        description="Serve a model file or package on http://127.0.0.1:8080 until Ctrl-C: mlmodel serve model.joblib. "
        "Options of mlmodel-server may follow: mlmodel serve model.joblib --port 9000 --workers 2",
    )
    serve.add_argument("path", metavar="PATH", help="model file, package directory, or address such as s3://…")
    serve.add_argument("options", nargs=argparse.REMAINDER, metavar="…", help="options of mlmodel-server")
    serve.set_defaults(run=_serve)

    package = commands.add_parser(
        "package",
        help="write a package from a model file, sign it, or print it as a ConfigMap",
        description="Write a package: mlmodel package model.joblib --data data.csv --label label --out DIR; without "
        "--label for a model without labels. "
        "Sign it: mlmodel package DIR --sign KEY. Print it as a ConfigMap: mlmodel package DIR --configmap NAME.",
    )
    package.add_argument("source", type=Path, metavar="MODEL_FILE|DIR", help="model file, or directory of a package")
    _add_table(package)
    package.add_argument("--out", type=Path, metavar="DIR", help="directory to write the package to")
    package.add_argument("--configmap", metavar="NAME", help="print the package as an immutable ConfigMap of this name")
    package.add_argument(
        "--format",
        choices=("auto", "skops", "joblib"),
        default="auto",
        help="format of the model file (default: auto, which is skops if it can hold the model, else joblib)",
    )
    package.add_argument(
        "--compress",
        type=int,
        default=3,
        metavar="0-9",
        help="compression of the model file, from 0 (none) to 9 (smallest) (default: 3)",
    )
    package.add_argument("--version", default="", help="human-readable name of the version (default: none)")
    package.add_argument(
        "--method",
        default="",
        metavar="NAME",
        help="method of scikit-learn whose answer a request gets that names no output, such as predict_proba "
        "(default: predict, or the one that the model has instead)",
    )
    package.add_argument(
        "--outputs",
        metavar="NAME,…",
        help="methods whose answers a request may name besides predict and predict_proba, such as decision_function "
        "(default: all that the model has, unless the compiled model serves alone)",
    )
    package.add_argument("--no-compile", action="store_true", help="do not add the model compiled to ONNX")
    package.add_argument(
        "--code",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="module of your own classes that the model uses: a .py file or a package directory; may be repeated. The "
        "command runs it, and the package must be signed (default: none)",
    )
    package.add_argument("--sign", type=Path, metavar="KEY", help="private key (PEM) to sign all files with")
    package.add_argument(
        "--name",
        default="",
        help="name that the model is served under, which --sign signs too (default: that of mlmodel serve DIR)",
    )
    package.set_defaults(run=_package)

    inspect = commands.add_parser(
        "inspect", help="print the content of a package or model file, and whether a server accepts it"
    )
    inspect.add_argument("path", type=Path, metavar="PATH", help="model file, or directory of a package")
    inspect.add_argument(
        "--signing-keys",
        type=Path,
        metavar="FILE",
        help="public keys (PEM): open the package as a server with --trust signed does (default: as with strict)",
    )
    inspect.add_argument(
        "--name", default="", help="name that the package was signed as (default: that of mlmodel serve PATH)"
    )
    inspect.set_defaults(run=_inspect)
    return parser


def _add_table(package: argparse.ArgumentParser) -> None:
    """Add the options about the table that a package is made from."""
    package.add_argument(
        "--data", type=Path, metavar="FILE", help="CSV file with a header: rows that the model was not trained on"
    )
    package.add_argument("--label", metavar="COLUMN", help="column of --data with the label (default: no labels)")
    package.add_argument(
        "--dates",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns of --data with dates in ISO 8601 (default: none, so that dates are text)",
    )
    package.add_argument(
        "--dtypes",
        nargs="+",
        type=_dtype,
        default=[],
        metavar="COLUMN=DTYPE",
        help="dtypes of pandas that columns of --data had in training, such as visits=Int64, city=category or "
        "'day=datetime64[ns]' (default: those of pandas.read_csv: int64, float64, bool and text)",
    )
    package.add_argument(
        "--separator",
        type=_separator,
        metavar="CHARACTER",
        help="what separates the values of --data, one character such as ';' (default: a comma)",
    )
    package.add_argument(
        "--extra-columns",
        choices=("refuse", "ignore"),
        default="refuse",
        help="what a server does with a column that the model does not have: reject the request, or ignore the column "
        "(default: refuse)",
    )


def _dtype(text: str) -> tuple[str, str]:
    from mlmodel_server.package.csv_file import DTYPES, is_dtype

    column, equals, dtype = text.rpartition("=")
    if not equals or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give COLUMN=DTYPE, such as visits=Int64")
    if not is_dtype(dtype):
        raise argparse.ArgumentTypeError(
            f"unknown dtype {dtype[:40]!r}{guess(dtype, DTYPES)}: use one of {', '.join(DTYPES)}, datetime64[ns] or "
            f"'datetime64[us, ZONE]', or --dates {column}"
        )
    return column, dtype


def _separator(text: str) -> str:
    text = {"\\t": "\t"}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one character: give one, such as ';'")
    return text


def _package(arguments: argparse.Namespace) -> None:
    from mlmodel_server.package import config_map

    directory: Path = arguments.source
    if directory.is_dir():
        if not arguments.configmap and not arguments.sign:
            typed = shlex.join(["mlmodel", "package", str(directory)])
            raise UsageError(
                f"{directory} is a directory: type {typed} --configmap NAME to print it as a ConfigMap, or {typed} "
                "--sign KEY to sign it"
            )
    else:
        if not directory.exists():
            raise UsageError(f"{directory} does not exist: give a model file, or the directory of a package")
        directory = _write(arguments)
    if arguments.sign:
        _sign(directory, arguments.sign, arguments.name)
    if arguments.configmap:
        sys.stdout.write(config_map(directory, arguments.configmap))


def _write(arguments: argparse.Namespace) -> Path:
    from mlmodel_server import manifest, package
    from mlmodel_server.compile import how_to_get
    from mlmodel_server.package.csv_file import CsvFile, like_dates
    from mlmodel_server.package.outputs import not_served
    from mlmodel_server.package.write import LeftOut

    if arguments.data is None:  # then it may be no model either
        _model(arguments.source, arguments.code)
    needed = {"--data": arguments.data, "--out": arguments.out}
    absent = [flag for flag, value in needed.items() if value is None]
    if absent:
        typed = ["mlmodel", "package", str(arguments.source), "--data", str(arguments.data or "data.csv")]
        typed += ["--label", arguments.label] if arguments.label else []
        typed += ["--out", str(arguments.out or "DIR")]
        typed += [word for path in arguments.code for word in ("--code", str(path))]
        labels = "" if arguments.label else ", and --label COLUMN if the file has labels"
        raise UsageError(f"{' '.join(absent)} missing: type {shlex.join(typed)}{labels}")
    model = _model(arguments.source, arguments.code)
    file = CsvFile(arguments.data, arguments.label, arguments.dates, dict(arguments.dtypes), arguments.separator or "")
    X, y = file.rows(model)
    dated = like_dates(X)
    hint = f"if the model was fitted on dates, add --dates {shlex.join(dated)}" if dated else ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")  # such as plain arrays for a model that was fitted on names
        warnings.simplefilter("always", LeftOut)
        try:
            written = package.save(
                model,
                X,
                y,
                arguments.out,
                format=arguments.format,
                compress=arguments.compress,
                version=arguments.version,
                compile=not arguments.no_compile,
                method=arguments.method,
                outputs=None if arguments.outputs is None else list(filter(None, arguments.outputs.split(","))),
                code=arguments.code,
                extra_columns=arguments.extra_columns,
            )
        except UsageError as error:
            raise UsageError(f"{error}; {hint}" if hint and "--dates" not in str(error) else str(error)) from None
    for warning in warned:
        sys.stderr.write(f"{warning.message}\n")
    if hint:
        sys.stderr.write(f"{', '.join(dated)} is packaged as text that looks like dates: {hint}\n")
    if missing := not_served(manifest.parse((written / manifest.MANIFEST).read_bytes())):
        sys.stderr.write(f"a server has only the compiled model, which is faster: {how_to_get(missing)}\n")
    if not arguments.sign:
        following = ["package", str(written), "--sign", "KEY"] if arguments.code else ["inspect", str(written)]
        sys.stderr.write(f"wrote {written}; next: {shlex.join(['mlmodel', *following])}\n")
    return written


def _model(path: Path, code: list[Path]) -> Any:
    """Return the scikit-learn estimator in the file, because it has the names of its columns; else ``path`` itself.

    With ``code``, the file may use the modules of these paths, which run.
    """
    from mlmodel_server.loading import own_code
    from mlmodel_server.loading.detect import detect
    from mlmodel_server.loading.trust import open_artefact

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: give a model file, or the directory of a package") from None
    if detect(path.name, data) not in ("skops", "joblib"):
        return path
    if not code:
        return open_artefact(data, path.name)
    return open_artefact(data, path.name, strict=False, code=own_code.modules_of(own_code.sources(code)))


def _sign(directory: Path, key: Path, name: str) -> None:
    from mlmodel_server.loading.signing import SIGNATURE, sign
    from mlmodel_server.loading.sources import locate

    source = locate(str(directory), None, "")
    files = {name: source.read(name) for name in source.names() if name != SIGNATURE}
    try:
        pem = key.read_bytes()
    except OSError as error:
        raise UsageError(f"{key}: {error.strerror}: give the private key with --sign") from None
    name = name or _name_of(directory.resolve().name)
    (directory / SIGNATURE).write_bytes(sign(files, pem, name))
    public = ["openssl", "pkey", "-in", str(key), "-pubout", "-out", "model.pub"]
    serve = ["mlmodel", "serve", str(directory), "--name", name, "--trust", "signed", "--signing-keys", "model.pub"]
    following = f"{shlex.join(public)} && {shlex.join(serve)}"
    sys.stderr.write(f"signed {len(files)} files in {directory} as the model {name}; next: {following}\n")


def _serve(arguments: argparse.Namespace) -> int:
    from mlmodel_server.startup.run import main as server

    name = _name_of(Path(arguments.path.partition("?")[0].rstrip("/")).name)
    return server(["--name", name, "--uri", arguments.path, "--host", "127.0.0.1", *arguments.options])


def _name_of(file: str) -> str:
    """Return the name that ``mlmodel serve`` gives to a model, by the name of its file or directory."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", file.partition(".")[0]) or "model"


def _inspect(arguments: argparse.Namespace) -> None:
    from mlmodel_server.startup import cpu

    threads = cpu.restrict(1, None)  # as a worker has; before numpy is imported
    from mlmodel_server.startup import inspection

    warnings.simplefilter("ignore")
    path: Path = arguments.path
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a package directory or a model file")
    keys = _public_keys(arguments.signing_keys) if arguments.signing_keys else []
    name = arguments.name or _name_of(path.resolve().name)
    for lines in inspection.report(path, keys, name, threads):
        sys.stdout.write(lines)


def _public_keys(path: Path) -> list[bytes]:
    from mlmodel_server.loading.signing import keys_of

    try:
        return keys_of(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: give the public key with --signing-keys") from None


if __name__ == "__main__":
    sys.exit(main())
