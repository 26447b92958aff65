"""The command line of ``mlmodel-server``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

FORMATS = ("auto", "sklearn", "skops", "joblib", "onnx", "xgboost", "lightgbm", "pytorch", "tensorflow", "mlflow")

WATTS_PER_CORE = 3.5
"""A busy vCPU of a public cloud: the average "max watts" of AWS in the methodology of Cloud Carbon Footprint
(cloudcarbonfootprint.org/docs/methodology, "Compute"; GCP 4.26, Azure 3.76). Whoever knows better sets it."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; exits with code 2 and one sentence when one is wrong. ``workers`` 0 is the CPU limit."""
    parser = argparse.ArgumentParser(
        prog="mlmodel-server", description="Serve one model over the Open Inference Protocol.", allow_abbrev=False
    )
    add = parser.add_argument_group("the model").add_argument
    add("--name", required=True, type=_label, help="part of the address")
    add(
        "--uri",
        required=True,
        help="a path, or builtin://, configmap://, pvc://, https://, s3://, gs://, az://, oci://",
    )
    add("--path", type=Path, metavar="DIR", help="where a configmap://, pvc:// or oci:// is mounted")
    add("--model-version", default="", type=_label, metavar="LABEL", help="of this version, for people")
    add("--revision", default="", type=_label, help="of the MLModel")
    add("--sha256", default="", type=_digest, help="of the model file, or of a package's mlmodel.json")
    add("--format", default="auto", choices=FORMATS, help="what the file must be (auto: anything)")
    add("--compile", default="auto", choices=("auto", "off"), help="serve it as ONNX where that is faster and the same")
    add = parser.add_argument_group("trust").add_argument
    add(
        "--trust",
        default="strict",
        choices=("strict", "signed", "unsafe"),
        help="how far the model is believed (strict)",
    )
    add("--signing-keys", type=Path, metavar="FILE", help="public keys, PEM, one of which must have signed it")
    add("--allow-unsafe", action="store_true", help="permit --trust unsafe, which runs whatever is in the file")
    add("--api-keys", type=Path, metavar="FILE", help="a line 'NAME: SHA256' for each key; read again on change")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM; read again on change")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    add("--feedback-key", type=Path, metavar="FILE", help="secret against forged prediction ids")
    add = parser.add_argument_group("serving").add_argument
    add("--host", default="", help="address to listen on (all)")
    add("--port", type=int, default=8080, help="for HTTP; 0 is any free one (8080)")
    add("--grpc-port", type=int, default=0, metavar="PORT", help="for gRPC; 0 is no gRPC (0)")
    add("--workers", type=_count, default=0, metavar="N", help="processes (the CPU limit; 1 without one)")
    add("--batch-rows", type=_positive, default=64, metavar="N", help="predicted together at most; 1 is off (64)")
    add = parser.add_argument_group("limits").add_argument
    add("--max-body", type=_positive, default=8 << 20, metavar="BYTES", help="of one request (8 MiB)")
    add("--max-rows", type=_positive, default=100_000, metavar="N", help="of one request (100,000)")
    add("--queue", type=_positive, default=256, metavar="N", help="requests that may wait; more are told 429 (256)")
    add(
        "--timeout",
        type=_above_zero("seconds", 3600),
        default=10.0,
        metavar="SECONDS",
        help="for a request that names no deadline (10)",
    )
    add = parser.add_argument_group("watching").add_argument
    add("--shadow", default="", metavar="URL", help="another version that gets copies of requests to compare")
    add("--shadow-percent", type=float, default=10.0, metavar="PERCENT", help="of the requests (10)")
    add("--payload-log", type=Path, metavar="DIR", help="where to write a sample of requests and answers (nowhere)")
    add("--payload-percent", type=float, default=1.0, metavar="PERCENT", help="of the requests (1)")
    add("--payload-format", choices=("jsonl", "parquet"), default="jsonl")
    watts = f"of a busy CPU, for the estimate of energy ({WATTS_PER_CORE})"
    add("--watts-per-core", type=_above_zero("watts", 1000), default=WATTS_PER_CORE, metavar="WATTS", help=watts)
    return parser.parse_args(argv)


def _label(text: str) -> str:
    if not re.fullmatch(r"[!-~]{0,128}", text):  # it becomes a header and part of a path
        raise argparse.ArgumentTypeError("use up to 128 visible ASCII characters without spaces")
    return text


def _digest(text: str) -> str:
    if not re.fullmatch(r"([0-9a-fA-F]{64})?", text):
        raise argparse.ArgumentTypeError("give the 64 hexadecimal digits of a SHA-256")
    return text.lower()


def _count(text: str) -> int:
    if not text.isdigit() or int(text) > 256:
        raise argparse.ArgumentTypeError("give a number from 0 to 256")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("give a whole number above 0")
    return int(text)


def _above_zero(unit: str, most: int) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"give {unit}, above 0 and up to {most}")
        return value

    return parsed
