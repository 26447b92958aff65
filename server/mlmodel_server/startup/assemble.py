"""From the arguments to what is served: read the model, check it, open it, test it, measure it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec

from mlmodel_server.engine import selftest
from mlmodel_server.engine.cost import Cost, measure
from mlmodel_server.engine.model import Model, repeated
from mlmodel_server.errors import UsageError, not_installed
from mlmodel_server.formats.opened import measured_rows
from mlmodel_server.formats.table import FAMILIES, of_protobuf
from mlmodel_server.loading.load import Loaded, load
from mlmodel_server.loading.signing import keys_of
from mlmodel_server.loading.sources import Memory, locate
from mlmodel_server.manifest import Manifest, Signature
from mlmodel_server.observe.cells import Identity
from mlmodel_server.observe.drift import Drift, features_of, predictions_of
from mlmodel_server.observe.families import ModelInfo
from mlmodel_server.observe.feedback import Feedback
from mlmodel_server.observe.figures import Figures
from mlmodel_server.observe.ids import MIN_SECRET, PredictionIds, key_of
from mlmodel_server.observe.metrics import Recorder
from mlmodel_server.observe.payloads import PayloadLog
from mlmodel_server.observe.rollout import RolloutLabels
from mlmodel_server.observe.shadow import Shadow
from mlmodel_server.protocol import v2
from mlmodel_server.rehearsal.authentic import Content
from mlmodel_server.rehearsal.sample import Sample
from mlmodel_server.rehearsal.target import TargetFile
from mlmodel_server.serving.access import LOOPBACK, ApiKeys, Certificate, Hosts
from mlmodel_server.serving.context import Limits, Serving
from mlmodel_server.serving.copies import Copy
from mlmodel_server.startup import memory
from mlmodel_server.startup.builtin import build
from mlmodel_server.startup.choose import Choice, choose
from mlmodel_server.startup.options import ANY_HOST

logger = logging.getLogger(__name__)

SEVERAL_SECONDS = 0.05
"""If the measured rows take longer, no more of them are measured: a row may take 100 MB."""


def read(arguments: argparse.Namespace) -> Loaded:
    """Return the model's files, checked against digests and signatures but not yet opened."""
    scheme, _, name = arguments.uri.partition("://")
    return load(
        Memory(build(name))
        if scheme == "builtin"
        else locate(arguments.uri, arguments.path, arguments.sha256, arguments.files_sha256, arguments.fetched),
        arguments.sha256,
        arguments.format,
        trust=arguments.trust,
        keys=_signing_keys(arguments),
        allow_unsafe=arguments.allow_unsafe,
        name=arguments.name,
        threads=arguments.threads,
        alone=True,
    )


def can_be_shared(loaded: Loaded, threads: int) -> bool:
    """Whether a model that was opened before the fork works after it. Threads do not survive a fork, and TensorFlow and
    a prediction on several threads have some."""
    return threads == 1 and loaded.format not in FAMILIES["tensorflow"]


def sample_of(arguments: argparse.Namespace) -> Sample | None:
    """Return the memory for the sample of requests, None if rehearsals are off. Call this before any fork."""
    wanted = arguments.rehearsal and arguments.rehearsal_requests
    if wanted and arguments.tls_cert:
        raise UsageError(
            "copies of a rehearsal are sent as plain HTTP: remove --rehearsal, or --tls-cert and --tls-key"
        )
    return Sample(arguments.rehearsal_requests, arguments.workers) if wanted else None


def labels_of(arguments: argparse.Namespace, sha256: str) -> RolloutLabels:
    """Return the memory for the labels of a rollout. Call this before any fork; ``sha256`` is the digest of the
    model."""
    return RolloutLabels(revision_of(arguments, sha256), arguments.workers)


def figures_of(arguments: argparse.Namespace, sha256: str) -> Figures:
    """Return the memory for the figures beside the gates. Call this before any fork, and after the number of workers is
    known."""
    return Figures(
        revision_of(arguments, sha256),
        arguments.workers,
        watts_per_core=arguments.watts_per_core,
        threads=arguments.threads,
    )


def assemble(
    arguments: argparse.Namespace,
    loaded: Loaded,
    sample: Sample | None = None,
    labels: RolloutLabels | None = None,
    figures: Figures | None = None,
) -> Serving:
    """Do all that can be done once, before workers are forked. Raise :class:`MLModelError`."""
    keys = ApiKeys(arguments.api_keys) if arguments.api_keys else None
    certificate = _certificate(arguments)
    warnings.simplefilter("ignore")  # libraries would log a line for every request
    manifest = loaded.manifest
    choice = choose(loaded, arguments.compile, arguments.threads)
    model = choice.model
    example = choice.example
    identity, slots, signature = _identity(arguments, loaded), arguments.workers, model.signature
    ids = PredictionIds(_feedback_key(arguments), identity, _task(loaded, model), signature.classes)
    feedback = Feedback(ids, identity, slots, signature.classes, rollout=labels)
    shadow = Shadow(identity, arguments.shadow, arguments.shadow_percent, slots) if arguments.shadow else None
    payloads = (
        PayloadLog(
            identity,
            arguments.payload_log,
            _columns(signature),
            arguments.payload_percent,
            slots,
            form=arguments.payload_format,
        )
        if arguments.payload_log
        else None
    )
    recorder = Recorder(
        identity,
        slots,
        watch=_drift(identity, slots, signature, manifest),
        collectors=[
            feedback,
            ModelInfo(identity, loaded.sha256),
            *(collector for collector in (shadow, payloads) if collector),
        ],
        watts_per_core=arguments.watts_per_core,
        figures=figures,
    )
    recorder.warm_up()
    return Serving(
        identity=identity,
        model=model,
        platform=choice.platform,
        properties=_properties(choice, loaded),
        profile=manifest.profile if manifest else {},
        example=example,
        recorder=recorder,
        ids=ids,
        feedback=feedback,
        cost=_cost(model, example),
        limits=_limits(arguments),
        shadow=shadow,
        payloads=payloads,
        sample=sample,
        rehearsal=TargetFile(arguments.rehearsal, arguments.api_keys) if sample else None,
        grpc=_grpc(arguments),
        keys=keys,
        hosts=hosts_of(arguments),
        certificate=certificate,
    )


def _limits(arguments: argparse.Namespace) -> Limits:
    """Return the limits of requests in one worker. Call this when the model has been loaded: they depend on the memory
    that is left."""
    total = memory.budget(memory.limit(), memory.used(), arguments.workers, arguments.max_body)
    limits = Limits(
        max_body=arguments.max_body,
        max_body_total=total,
        max_connections=memory.connections(),
        max_rows=arguments.max_rows,
        batch_rows=arguments.batch_rows,
        max_waiting=arguments.queue,
        timeout=arguments.timeout,
    )
    values = {"bytes": limits.max_body_total, "connections": limits.max_connections}
    logger.info("limits of a worker", extra=values)
    return limits


def copy_of_call(serving: Serving) -> Callable[[Content], Copy] | None:
    """Return what reads copies of gRPC calls; None if the server serves no gRPC, or no rehearsal."""
    if not serving.grpc or not serving.rehearsal:
        return None
    from mlmodel_server.rpc.copies import CallCopy  # without grpc, whose threads would not survive the fork

    return lambda content: CallCopy(content, serving)


def _properties(choice: Choice, loaded: Loaded) -> dict[str, str]:
    properties = {"sha256": loaded.sha256}
    differing = _other_versions(loaded)
    if differing:
        properties["library_versions"] = differing
    if dated := _like_dates(loaded):
        properties["like_dates"] = dated
    if choice.verdict:
        properties["compiled"] = choice.verdict
    if loaded.manifest and loaded.manifest.metrics:
        properties["training_metrics"] = json.dumps(loaded.manifest.metrics, ensure_ascii=False)
    return properties


def _like_dates(loaded: Loaded) -> str:
    """Return the columns of a bare file that may be dates, and log them: the server takes numbers for them."""
    columns = ", ".join(loaded.opened.like_dates[:20]) if loaded.manifest is None else ""
    if columns:
        logger.warning("columns look like dates", extra={"columns": columns, "hint": selftest.LIKE_DATES})
    return columns


def _other_versions(loaded: Loaded) -> str:
    """Return the libraries that saved the model in another version than the server has; "" if there are none."""
    saved = loaded.manifest.libraries if loaded.manifest else loaded.opened.saved_with
    differing = selftest.differences(saved)
    if differing:
        logger.warning("library versions differ", extra={"versions": "; ".join(differing)})
    return "; ".join(differing)


def _signing_keys(arguments: argparse.Namespace) -> list[bytes]:
    """Return the public keys of the file, else of the environment, where the operator sets them."""
    pem = os.environ.get("MLMODEL_SIGNING_KEYS_PEM", "").encode()
    if arguments.signing_keys:
        try:
            pem = arguments.signing_keys.read_bytes()
        except OSError as error:
            raise UsageError(
                f"the signing keys cannot be read ({error.strerror}): give a PEM file with --signing-keys"
            ) from None
    return keys_of(pem)


def _certificate(arguments: argparse.Namespace) -> Certificate | None:
    if not arguments.tls_cert and not arguments.tls_key:
        return None
    if not arguments.tls_cert or not arguments.tls_key:
        raise UsageError("TLS requires a certificate and its key: give both --tls-cert and --tls-key")
    return Certificate(arguments.tls_cert, arguments.tls_key)


def hosts_of(arguments: argparse.Namespace) -> Hosts | None:
    """Return the names that ``Host`` may have; None for any, which is the default unless only this machine can connect:
    clients in a cluster use many names."""
    if arguments.allowed_hosts is not None:
        return None if arguments.allowed_hosts == ANY_HOST else Hosts(arguments.allowed_hosts)
    address = arguments.host.strip("[]")
    if address == "localhost":
        return Hosts(LOOPBACK)
    try:
        if not ipaddress.ip_address(address).is_loopback:
            return None
    except ValueError:  # a name, or "" for all addresses
        return None
    return Hosts({*LOOPBACK, f"[{address}]" if ":" in address else address})


def _grpc(arguments: argparse.Namespace) -> str:
    if not arguments.grpc_port:
        return ""
    if find_spec("grpc") is None:
        raise UsageError(not_installed("gRPC", "grpcio", "grpc") + ", or remove --grpc-port")
    try:
        from mlmodel_server.rpc.proto import open_inference_pb2  # noqa: F401  # starts no thread, unlike grpc
    except Exception as error:  # as protobuf's own VersionError
        reason = of_protobuf(error, "grpc") or not_installed("gRPC", "protobuf", "grpc")
        raise UsageError(f"gRPC cannot be served: {reason}; or remove --grpc-port") from None
    host = arguments.host or "[::]"
    return (
        f"[{host}]:{arguments.grpc_port}"
        if ":" in host.strip("[]") and "[" not in host
        else f"{host}:{arguments.grpc_port}"
    )


def _feedback_key(arguments: argparse.Namespace) -> bytes:
    if not arguments.feedback_key:
        return key_of(arguments.name)
    try:
        secret = arguments.feedback_key.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the feedback key cannot be read ({error.strerror}): give a file with --feedback-key"
        ) from None
    if len(secret) < MIN_SECRET:
        raise UsageError(
            f"the feedback key has {len(secret)} bytes, fewer than {MIN_SECRET}: make one with `openssl rand -hex 32`"
        )
    return key_of(arguments.name, secret)


def _task(loaded: Loaded, model: Model) -> str:
    if loaded.manifest:
        return loaded.manifest.task
    return "classification" if model.signature.classes else loaded.opened.task


def revision_of(arguments: argparse.Namespace, sha256: str) -> str:
    """Return the revision: that of the operator, else the head of the model's digest."""
    return arguments.revision or sha256[:8]


def _identity(arguments: argparse.Namespace, loaded: Loaded) -> Identity:
    version = (
        arguments.model_version
        or (loaded.manifest.version if loaded.manifest else "")
        or arguments.sha256[:7]
        or arguments.revision[:7]
        or loaded.sha256[:7]
    )
    return Identity(arguments.name, version, revision_of(arguments, loaded.sha256))


def _cost(model: Model, example: bytes) -> Cost:
    row = model.table(v2.decode(example).inputs)
    outputs = model.select_outputs(None)

    def seconds(count: int) -> float:
        rows = repeated(row, count)
        return measure(lambda: model.predict(rows, outputs))

    one = seconds(1)
    if not model.batchable:  # each request takes as long
        return Cost(one, one, 2)
    count, most = measured_rows(one), measured_rows(0.0)
    if count == 1:  # a slow model: each row is expected to take as long
        return Cost(one, one)
    several = seconds(count)
    # Of a model that takes as long for any number of rows, a few of them would measure only noise.
    while count < most and several < SEVERAL_SECONDS:
        count = min(4 * count, most)
        several = seconds(count)
    return Cost(one, several, count)


def _drift(identity: Identity, slots: int, signature: Signature, manifest: Manifest | None) -> Drift:
    features, predictions = (manifest.profile, manifest.predictions) if manifest else ({}, {})
    return Drift(
        identity, slots, features_of(features, _columns(signature)), predictions_of(predictions, signature.classes)
    )


def _columns(signature: Signature) -> list[str]:
    """Return the names of the columns, as in the profile."""
    if signature.layout == "matrix":
        matrix = signature.inputs[0]
        return [f"{matrix.name}[{index}]" for index in range(matrix.shape[-1])]
    return [spec.name for spec in signature.inputs]
