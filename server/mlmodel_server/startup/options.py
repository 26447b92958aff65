"""The command line of ``mlmodel-server``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from mlmodel_server.texts import guess

FORMATS = ("auto", "sklearn", "skops", "joblib", "onnx", "xgboost", "lightgbm", "pytorch", "tensorflow", "mlflow")

WATTS_PER_CORE = 3.5
"""Watts of a busy vCPU: the average "max watts" of AWS in the methodology of Cloud Carbon Footprint
(cloudcarbonfootprint.org/docs/methodology, "Compute"; GCP 4.26, Azure 3.76)."""

MAX_BYTES = (1 << 31) - 1
"""Greatest size of one request: gRPC holds it in 32 bits."""

ANY_HOST = frozenset({"any"})
"""The value of ``--allowed-hosts`` that turns the check off."""

Add = Callable[..., argparse.Action]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {message}: see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments of a command; no one passes unknown ones on."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            self.error(f"unknown argument {unknown[0][:80]!r}{guess(name, self._option_string_actions)}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action, f"unknown value {str(value)[:80]!r}{guess(str(value), names)}; use one of {', '.join(names)}"
            )


def add_version(to: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    to.add_argument(
        "--version", action="version", version=f"{to.prog} {version('mlmodel')}", help="print the version and exit"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments. If one is wrong, exit with code 2 and one sentence. ``workers`` 0 is the CPU limit."""
    return parser().parse_args(argv)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``mlmodel-server``."""
    made = Parser(
        prog="mlmodel-server", description="Serve one model over the Open Inference Protocol.", allow_abbrev=False
    )
    add_version(made)
    _add_model(made.add_argument_group("model").add_argument)
    _add_access(made.add_argument_group("trust and access").add_argument)
    _add_serving(made.add_argument_group("serving").add_argument)
    _add_limits(made.add_argument_group("limits").add_argument)
    _add_observability(made.add_argument_group("observability").add_argument)
    _add_rehearsal(made.add_argument_group("rehearsal").add_argument)
    return made


def _add_model(add: Add) -> None:
    add(
        "--name",
        required=True,
        type=_name,
        help="name of the model, part of the paths; up to 128 visible ASCII characters",
    )
    add(
        "--uri",
        required=True,
        help="where the model is: a path, or file://, builtin://, configmap://, pvc://, https://, s3://, gs://, az:// "
        "or oci://",
    )
    add(
        "--path",
        type=_path,
        metavar="DIR",
        help="directory at which a configmap://, pvc:// or oci:// is mounted (default: none)",
    )
    add(
        "--fetch-to",
        type=_path,
        metavar="DIR",
        help="fetches the model of an https://, s3://, gs://, az:// or oci:// into this directory, checks its digest "
        "and exits, without opening it (default: off)",
    )
    add(
        "--fetched",
        type=_path,
        metavar="DIR",
        help="directory to which --fetch-to has fetched the model (default: none, the server fetches it)",
    )
    add("--remove-fetched", action="store_true", help=argparse.SUPPRESS)  # of a temporary directory
    add(
        "--model-version",
        default="",
        type=_label,
        metavar="LABEL",
        help="human-readable name of the version, in paths, headers and metrics; up to 128 visible ASCII characters "
        "(default: version of the package, else the head of --sha256, --revision or the digest)",
    )
    add(
        "--revision",
        default="",
        type=_label,
        metavar="LABEL",
        help="the operator's name for this revision; up to 128 visible ASCII characters (default: head of the digest)",
    )
    add(
        "--sha256",
        default="",
        type=_digest,
        metavar="DIGEST",
        help="digest of the file, of a package's mlmodel.json, of an archive or of a directory, as 64 hexadecimal "
        "digits (default: none)",
    )
    add(
        "--files-sha256",
        default="",
        type=_digest,
        metavar="DIGEST",
        help="digest of all files of a ConfigMap as 64 hexadecimal digits, which the operator computes when a revision "
        "starts (default: none)",
    )
    add(
        "--format",
        default="auto",
        choices=FORMATS,
        help="format that the model must have; sklearn is skops or joblib, pytorch and tensorflow any of theirs "
        "(default: auto, any format)",
    )
    add(
        "--compile",
        default="auto",
        choices=("auto", "off"),
        help="auto serves the model as ONNX if that is faster with the same predictions, off serves it as it was saved "
        "(default: auto)",
    )


def _add_access(add: Add) -> None:
    add(
        "--trust",
        default="strict",
        choices=("strict", "signed", "unsafe"),
        help="what the server may open: strict is what can only compute, signed what one of the keys has signed, "
        "unsafe anything (default: strict)",
    )
    add(
        "--signing-keys",
        type=_path,
        metavar="FILE",
        help="public keys as PEM, one after the other, for --trust signed (default: none)",
    )
    add(
        "--allow-unsafe",
        action="store_true",
        help="permits --trust unsafe: the file of the model may run any code (default: off)",
    )
    add(
        "--api-keys",
        type=_path,
        metavar="FILE",
        help="a line 'NAME: SHA256' for each key, reloaded on change (default: none, the server requires no key)",
    )
    add(
        "--tls-cert",
        type=_path,
        metavar="FILE",
        help="certificate chain as PEM, reloaded on change; give --tls-key too (default: none, plain HTTP)",
    )
    add("--tls-key", type=_path, metavar="FILE", help="private key as PEM; give --tls-cert too (default: none)")
    add(
        "--feedback-key",
        type=_path,
        metavar="FILE",
        help="a secret of at least 32 bytes, the same for all pods of a model; only its holder can forge prediction "
        "ids (default: none)",
    )


def _add_serving(add: Add) -> None:
    add("--host", default="", metavar="ADDRESS", help="address to listen on (default: all addresses, IPv4 and IPv6)")
    add(
        "--allowed-hosts",
        type=_hosts,
        metavar="NAMES",
        help="names that the header Host may have, and Origin of a page in a browser, separated by commas; any turns "
        "the check off (default: localhost, 127.0.0.1 and [::1] if --host is one of them, else any)",
    )
    add("--port", type=_integer(0, 65535), default=8080, help="port for HTTP; 0 is any free port (default: 8080)")
    add(
        "--grpc-port",
        type=_integer(0, 65535),
        default=0,
        metavar="PORT",
        help="port for gRPC; 0 turns gRPC off (default: 0)",
    )
    add(
        "--workers",
        type=_integer(0, 256),
        default=0,
        metavar="N",
        help="number of worker processes, up to 256 (default: the CPU limit, else 1)",
    )
    add(
        "--batch-rows",
        type=_integer(1, 10**6),
        default=64,
        metavar="N",
        help="maximum number of rows that are predicted together, up to 1,000,000; 1 turns batching off (default: 64)",
    )


def _add_limits(add: Add) -> None:
    add(
        "--max-body",
        type=_integer(1, MAX_BYTES),
        default=8 << 20,
        metavar="BYTES",
        help="maximum size of one request in bytes, and of one gRPC message in either direction (default: 8 MiB)",
    )
    add(
        "--max-rows",
        type=_integer(1, 10**9),
        default=100_000,
        metavar="N",
        help="maximum number of rows of one request (default: 100,000)",
    )
    add(
        "--queue",
        type=_integer(1, 10**6),
        default=256,
        metavar="N",
        help="maximum number of requests per worker that wait for the model or are being predicted (default: 256)",
    )
    add(
        "--timeout",
        type=_above_zero("seconds", 3600),
        default=10.0,
        metavar="SECONDS",
        help="deadline of a request without its own, above 0 and up to 3600 (default: 10)",
    )


def _add_observability(add: Add) -> None:
    add(
        "--shadow",
        default="",
        metavar="URL",
        help="address of another version that gets copies of requests (default: off)",
    )
    add(
        "--shadow-percent",
        type=_above_zero("a percentage", 100),
        default=10.0,
        metavar="PERCENT",
        help="percentage of the requests that are copied, above 0 and up to 100 (default: 10)",
    )
    add(
        "--payload-log",
        type=_path,
        metavar="DIR",
        help="directory for a sample of requests and responses (default: off)",
    )
    add(
        "--payload-percent",
        type=_above_zero("a percentage", 100),
        default=1.0,
        metavar="PERCENT",
        help="percentage of the requests that are logged, above 0 and up to 100 (default: 1)",
    )
    add(
        "--payload-format",
        choices=("jsonl", "parquet"),
        default="jsonl",
        help="format of the payload log (default: jsonl)",
    )
    add(
        "--watts-per-core",
        type=_above_zero("watts", 1000),
        default=WATTS_PER_CORE,
        metavar="WATTS",
        help="power of a busy CPU in watts, for the estimate of energy; above 0 and up to 1000 "
        f"(default: {WATTS_PER_CORE})",
    )


def _add_rehearsal(add: Add) -> None:
    add(
        "--rehearsal",
        type=_path,
        metavar="FILE",
        help="file that names the candidate of a rehearsal, read again on change; with it the server keeps a sample of "
        "requests in memory, and the pages for the operator (default: off)",
    )
    add(
        "--rehearsal-requests",
        type=_integer(0, 10_000),
        default=1000,
        metavar="N",
        help="maximum number of requests in the sample, up to 10,000; 0 turns rehearsals off, not the page with labels "
        "(default: 1000)",
    )
    add(
        "--rehearsal-port",
        type=_integer(0, 65535),
        default=8090,
        metavar="PORT",
        help="port for the operator: results of a rehearsal and of labels, which are counts; 0 is any free port "
        "(default: 8090)",
    )


def _path(text: str) -> Path:
    return Path(text).absolute()  # the server works in another directory


def _label(text: str) -> str:
    if not re.fullmatch(r"[!-~]{0,128}", text):  # it becomes a header and part of a path
        raise argparse.ArgumentTypeError(
            f"{text!r} is not valid: use up to 128 visible ASCII characters without spaces"
        )
    return text


def _hosts(text: str) -> frozenset[str]:
    names = frozenset(text.lower().split(","))
    if not all(re.fullmatch(r"\[[0-9a-f:.]+\]|[a-z0-9._-]+", name) for name in names):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is not valid: give names without ports, separated by commas, such as localhost,my.machine"
        )
    return names


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give the model a name")
    return _label(text)


def _digest(text: str) -> str:
    if not re.fullmatch(r"([0-9a-fA-F]{64})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a SHA-256: give its 64 hexadecimal digits")
    return text.lower()


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse_integer(text: str) -> int:
        if not re.fullmatch("[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} to {most}")
        return int(text)

    return parse_integer


def _above_zero(unit: str, most: int) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give {unit}, above 0 and up to {most}")
        return value

    return parse_number
