"""MLModel as frozen dataclasses: what a user writes in ``spec``.

The CRD is generated from this module (see ``crd.py``): a field exists only if the operator acts on it. Names are
snake_case here and camelCase on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from mlmodel_operator.api.schema import Doc, HeaderValue, Limits, Quantity, Rule

ModelFormat = Literal[
    "auto", "sklearn", "skops", "joblib", "onnx", "xgboost", "lightgbm", "pytorch", "tensorflow", "mlflow"
]
Trust = Literal["strict", "signed", "unsafe"]
OnNoEvidence = Literal["Proceed", "Hold", "Promote", "RollBack"]

MAX_NAME = 40

_NAME = "[a-z0-9][a-z0-9.-]*"
# Registry with an optional port, repository, and a tag, a digest, or both.
_IMAGE = "[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?"
# Name or address of a host with an optional port, without user information. In CEL a backslash would need another one.
_HOST = "([A-Za-z0-9][A-Za-z0-9.-]*|[[][0-9A-Fa-f:.]+[]])(:[0-9]+)?"
# Printable ASCII: an argument of a container, and part of messages.
_URI = (
    f"^(builtin://{_NAME}|configmap://{_NAME}|pvc://{_NAME}(/[!-.0-~]+)*|https://{_HOST}/[!-~]+"
    f"|(s3|gs|az)://[a-z0-9][a-z0-9._-]*/[!-~]+|oci://{_IMAGE})$"
)
# Names that both HTTP and gRPC allow, in the form in which HTTP/2 sends them.
HEADER = "[a-z0-9][a-z0-9._-]*"
# Headers that no user chooses freely (framing, one connection, our own, gRPC's own), and credentials: a token that is
# renewed would move its user to the other side, and a value in the spec can be read by everyone who may read the model.
RESERVED_HEADER = (
    "x-mlmodel-.*|grpc-.*|.*-bin|authorization|proxy-authorization|cookie|x-api-key|connection|keep-alive"
    "|proxy-connection|te|trailer|transfer-encoding|upgrade|http2-settings|content-length|host|expect"
)
# Printable ASCII without the space and the comma, which separates the elements of a list.
HEADER_VALUE = "[!-+.-~-]+"


@dataclass(frozen=True)
class ModelSource:
    """The model: where it is, and what the server may open."""

    uri: Annotated[
        str,
        Doc(
            "Location of the model, at most 1024 printable ASCII characters without user name, password and `$(`:"
            " builtin://NAME (in the server image), configmap://NAME (a package of at most 1 MiB), pvc://CLAIM/PATH,"
            " s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY, https://HOST/PATH or"
            " oci://REGISTRY/REPOSITORY@sha256:DIGEST (an image that the node mounts). ConfigMap and claim are in the"
            " namespace of the MLModel. Required."
        ),
        Limits(maximum=1024),
    ]
    version: Annotated[
        str,
        Doc(
            "Human-readable name of this version in columns, messages, metrics and headers: at most 63 letters, digits,"
            " `.`, `_` and `-`. Default: the first 7 digits of the digest, or of the revision if the spec has no"
            " digest."
        ),
        Limits(maximum=63),
    ] = ""
    sha256: Annotated[
        str,
        Doc(
            "SHA-256 digest as 64 lower-case hexadecimal digits: of the file, archive or directory, or of mlmodel.json"
            " for a package, which lists the digest of every other file. The server verifies it before it parses"
            " anything. Required for https, s3, gs and az, and for oci without a digest in uri. Default: empty, no"
            " digest."
        ),
        Limits(maximum=64),
    ] = ""
    format: Annotated[
        ModelFormat,
        Doc(
            "Format that the model must have: auto detects it from the package or file, sklearn is skops or joblib,"
            " pytorch and tensorflow are any of theirs. Default: auto."
        ),
    ] = "auto"
    trust: Annotated[
        Trust,
        Doc(
            "What the server may open: strict (files that cannot run code), signed (any file, with a valid signature;"
            " requires an operator with --signing-keys) or unsafe (any file, which may run any code in its pod;"
            " requires an operator with --allow-unsafe-models). Default: strict."
        ),
    ] = "strict"

    rules: ClassVar = (
        Rule(
            "has(self.uri)",
            "spec.model.uri is missing: add the location of the model, for example `uri: configmap://my-model-v1`",
        ),
        Rule(
            f"!has(self.uri) || self.uri.matches('{_URI}')",
            "spec.model.uri must be builtin://NAME, configmap://NAME, pvc://CLAIM/PATH, s3://BUCKET/KEY,"
            " gs://BUCKET/KEY, az://CONTAINER/KEY, https://HOST/PATH or oci://REGISTRY/REPOSITORY@sha256:DIGEST",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || (self.uri.matches('^[!-~]*$') && !self.uri.contains('$('))",
            "spec.model.uri has a space, a control character, a character beyond ASCII, or `$(`: rename the file or"
            " directory, and percent-encode the path of an https address",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.matches('^[a-z0-9]+://[^/?#]*@')",
            "spec.model.uri has a user name or password: remove it, and put the credentials of a store into the Secret"
            " mlmodel-storage",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.contains('..')",
            "spec.model.uri contains `..`: type the whole path, from the root of the claim or bucket",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.matches('^(https|s3|gs|az)://') || (has(self.sha256) && self.sha256 != '')",
            "spec.model.sha256 is missing, and https, s3, gs and az require it: type the output of `sha256sum FILE`",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.startsWith('oci://') || self.uri.contains('@sha256:')"
            " || (has(self.sha256) && self.sha256 != '')",
            "spec.model.uri names an image without its digest: type oci://REGISTRY/REPOSITORY@sha256:DIGEST, or set"
            " spec.model.sha256 to the output of `sha256sum FILE` for the model in the image",
            ".uri",
        ),
        Rule(
            "!has(self.sha256) || self.sha256.matches('^([0-9a-f]{64})?$')",
            "spec.model.sha256 must be 64 lower-case hexadecimal digits without a prefix: type the output of"
            " `sha256sum FILE`",
            ".sha256",
        ),
        Rule(
            "!has(self.version) || self.version.matches('^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$')",
            "spec.model.version must consist of letters, digits, `.`, `_` and `-`, and start and end with a letter or"
            " digit: type for example `version: v7`",
            ".version",
        ),
    )

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits, of the model or of its image; empty if the spec has no digest."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return self.uri.partition("@")[2] if self.uri.startswith("oci://") else ""

    @property
    def config_map(self) -> str:
        """Name of the ConfigMap with the model; empty if the model has another source."""
        scheme, _, name = self.uri.partition("://")
        return name if scheme == "configmap" else ""


def _resource_rules(path: str) -> tuple[Rule, ...]:
    """Return the rules of the resources at this path of the MLModel."""
    keys = tuple(
        Rule(
            f"!has(self.{amounts}) || self.{amounts}.all(key, key in ['cpu', 'memory'])",
            f"{path}.{amounts} has a key other than cpu and memory: type for example `{amounts}: {{cpu: 500m, memory:"
            " 512Mi}`",
            f".{amounts}",
        )
        for amounts in ("requests", "limits")
    )
    return keys + tuple(
        Rule(
            f"!has(self.requests) || !has(self.limits) || !('{name}' in self.requests) || !('{name}' in self.limits)"
            f" || quantity(string(self.requests['{name}'])).compareTo(quantity(string(self.limits['{name}']))) <= 0",
            f"{path}.limits.{name} is below requests.{name}: raise limits.{name} or lower requests.{name}",
        )
        for name in ("cpu", "memory")
    )


@dataclass(frozen=True)
class Resources:
    """CPU and memory of each server pod."""

    requests: Annotated[
        Mapping[str, Quantity],
        Doc(
            "CPU and memory that the node reserves for each server pod, as Kubernetes quantities with the keys cpu and"
            " memory. Default of each: its limit; without a limit cpu 100m and memory 256Mi."
        ),
        Limits(maximum=2),
    ] = field(default_factory=dict)
    limits: Annotated[
        Mapping[str, Quantity],
        Doc(
            "Maximum CPU and memory of each server pod, as Kubernetes quantities with the keys cpu and memory. Default:"
            " no limit."
        ),
        Limits(maximum=2),
    ] = field(default_factory=dict)

    rules: ClassVar = _resource_rules("spec.serving.resources")


@dataclass(frozen=True)
class RouterResources(Resources):
    """CPU and memory of each router pod."""

    requests: Annotated[
        Mapping[str, Quantity],
        Doc(
            "CPU and memory that the node reserves for each router pod, as Kubernetes quantities with the keys cpu and"
            " memory. Default of each: its limit in the spec; without one cpu 50m and memory 32Mi."
        ),
        Limits(maximum=2),
    ] = field(default_factory=dict)
    limits: Annotated[
        Mapping[str, Quantity],
        Doc(
            "Maximum CPU and memory of each router pod, as Kubernetes quantities with the keys cpu and memory. A"
            " request in flight needs up to 75 kB. Default: no limit of cpu; memory 512Mi, or no limit if requests has"
            " memory."
        ),
        Limits(maximum=2),
    ] = field(default_factory=dict)

    rules: ClassVar = _resource_rules("spec.traffic.router.resources")


@dataclass(frozen=True)
class Autoscaling:
    """Bounds and target of the HorizontalPodAutoscaler of each revision."""

    max_replicas: Annotated[int, Doc("Maximum number of pods per revision, 1 to 1000. Required."), Limits(1, 1000)]
    min_replicas: Annotated[
        int,
        Doc("Minimum number of pods of the stable revision, 1 to 1000 and at most maxReplicas. Default: 1."),
        Limits(1, 1000),
    ] = 1
    cpu_percent: Annotated[
        int,
        Doc("Average CPU use to aim at, in percent of the CPU request, 1 to 1000. Default: 80."),
        Limits(1, 1000),
    ] = 80

    rules: ClassVar = (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "spec.serving.autoscaling.minReplicas is above maxReplicas: lower minReplicas or raise maxReplicas",
        ),
    )


@dataclass(frozen=True)
class Batching:
    """Prediction of waiting requests in one call of the model; a request that finds the model idle never waits."""

    max_rows: Annotated[
        int,
        Doc("Maximum number of rows that are predicted together, 1 to 65536; 1 turns batching off. Default: 64."),
        Limits(1, 65_536),
    ] = 64


def _secret_rules(field: str, example: str, secret: str) -> tuple[Rule, ...]:
    """Return the rules of a ``secretName``, at ``field`` of the spec; ``secret`` says which Secret it is."""
    return (
        Rule(
            "has(self.secretName)",
            f"{field}.secretName is missing: type the name of {secret}, for example `{example}`",
        ),
        Rule(
            "!has(self.secretName) || self.secretName.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
            f"{field}.secretName must be the name of a Secret, of lower-case letters, digits, `.` and `-`: type for"
            f" example `{example}`",
            ".secretName",
        ),
    )


@dataclass(frozen=True)
class ApiKeys:
    """The API keys that clients must send for predictions and metadata."""

    secret_name: Annotated[
        str,
        Doc(
            "Name of a Secret in the namespace of the MLModel, at most 253 characters. Its key `keys` has a line `NAME:"
            " SHA256` for each API key, with the hash that `printf %s KEY | sha256sum` prints. Changed lines take"
            " effect within a minute or two; without the Secret no pod starts. Required."
        ),
        Limits(maximum=253),
    ]

    rules: ClassVar = _secret_rules(
        "spec.serving.apiKeys", "apiKeys: {secretName: fraud-keys}", "the Secret with the hashes of the keys"
    )


@dataclass(frozen=True)
class FeedbackKey:
    """The key of prediction ids: without it, anyone who may send feedback can forge ids."""

    secret_name: Annotated[
        str,
        Doc(
            "Name of a Secret in the namespace of the MLModel, at most 253 characters. Its key `key` has at least 32"
            " random bytes, for example of `openssl rand -hex 32`. Do not change them: pods read them when they start."
            " Name another Secret instead. Without the Secret no pod starts. Required."
        ),
        Limits(maximum=253),
    ]

    rules: ClassVar = _secret_rules(
        "spec.serving.feedbackKey",
        "feedbackKey: {secretName: fraud-feedback}",
        "the Secret with the key of prediction ids",
    )


@dataclass(frozen=True)
class Serving:
    """The pods that serve the model; ``replicas`` and ``autoscaling`` exclude each other."""

    replicas: Annotated[
        int | None,
        Doc("Number of pods of the stable revision, 1 to 1000. Not allowed beside autoscaling. Default: 1."),
        Limits(1, 1000),
    ] = None
    autoscaling: Annotated[
        Autoscaling | None,
        Doc(
            "Adds and removes pods of each revision by CPU use. Not allowed beside replicas. Default: off, the number"
            " of pods is fixed."
        ),
    ] = None
    resources: Annotated[
        Resources, Doc("CPU and memory of each server pod. A change makes a new revision, which is rolled out.")
    ] = field(default_factory=Resources)
    batching: Annotated[
        Batching,
        Doc(
            "Prediction of waiting requests in one call of the model; a request that finds the model idle never waits."
            " A change makes a new revision, which is rolled out."
        ),
    ] = field(default_factory=Batching)
    api_keys: Annotated[
        ApiKeys | None,
        Doc(
            "Requires an API key for predictions and metadata. A change makes a new revision, which is rolled out."
            " Default: off, no key is required."
        ),
    ] = None
    feedback_key: Annotated[
        FeedbackKey | None,
        Doc(
            "Protects prediction ids with a secret key, so that no one can forge them. A change makes a new revision,"
            " which is rolled out; ids of the former key cannot be scored by its pods. Default: off, ids are"
            " protected against mistakes only."
        ),
    ] = None
    refresh: Annotated[
        str,
        Doc(
            "Any text of at most 63 characters. Another text makes a new revision: the same model with the operator's"
            " present server image, which is rolled out. Default: empty."
        ),
        Limits(maximum=63),
    ] = ""

    rules: ClassVar = (
        Rule(
            "!(has(self.replicas) && has(self.autoscaling))",
            "spec.serving has both replicas and autoscaling: keep `replicas: N` for a fixed number of pods, or"
            " `autoscaling: {maxReplicas: N}`, and remove the other one",
        ),
    )


@dataclass(frozen=True)
class Step:
    """One canary step: the weight of the candidate, and what the step requires beside the evidence."""

    # Bounds beyond those of the rule on `steps`, so that the message of the rule is shown and not the API server's own.
    weight: Annotated[
        int,
        Doc(
            "Percentage of the requests that the candidate gets, 0 to 99. A first step of 0 gives it only requests that"
            " choose it and those of `match`. Required."
        ),
        Limits(-1, 100),
    ]
    min_requests: Annotated[
        int,
        Doc("Minimum number of requests that the candidate gets in this step, 0 to 100000000. Default: 0."),
        Limits(0, 100_000_000),
    ] = 0
    min_seconds: Annotated[
        int, Doc("Minimum duration of this step, in seconds, 0 to 2592000 (30 days). Default: 0."), Limits(0, 2_592_000)
    ] = 0
    pause: Annotated[
        bool,
        Doc(
            "Requires an approval before the next step, beside the evidence: an annotation, which the message of Ready"
            " shows. Rollback continues meanwhile. Default: false."
        ),
    ] = False


def _header_rules(path: str, example: str) -> tuple[Rule, ...]:
    """Return the rules of a field ``header`` of the object at this path of the MLModel."""
    return (
        Rule("has(self.header)", f"{path}.header is missing: type the name of a header, for example `{example}`"),
        Rule(
            f"!has(self.header) || self.header.matches('^{HEADER}$')",
            f"{path}.header must be the name of a header, of lower-case letters, digits, `.`, `_` and `-`: type for"
            f" example `{example}`",
            ".header",
        ),
        Rule(
            f"!has(self.header) || !self.header.matches('^({RESERVED_HEADER})$')",
            f"{path}.header names a credential, a header of the connection, or one that HTTP, gRPC or the router uses:"
            f" let your gateway set another one, and type for example `{example}`",
            ".header",
        ),
    )


@dataclass(frozen=True)
class Sticky:
    """The header by which a user stays on one side."""

    header: Annotated[
        str,
        Doc(
            "Name of the request header (over gRPC: metadata) that names the user, in lower case, at most 64"
            " characters. Required."
        ),
        Limits(maximum=64),
    ]

    rules: ClassVar = _header_rules("spec.rollout.sticky", "sticky: {header: x-user-id}")


@dataclass(frozen=True)
class Match:
    """The header whose values send requests to the candidate."""

    header: Annotated[
        str,
        Doc(
            "Name of the request header (over gRPC: metadata), in lower case, at most 64 characters. Its value may be a"
            " list with commas. Required."
        ),
        Limits(maximum=64),
    ]
    values: Annotated[
        tuple[HeaderValue, ...],
        Doc(
            "Values that send a request to the candidate, 1 to 20, each of 1 to 64 printable ASCII characters without"
            " space and comma. Upper and lower case differ. Required."
        ),
        Limits(1, 20),
    ]

    rules: ClassVar = (
        *_header_rules("spec.rollout.match", "match: {header: x-group, values: [beta]}"),
        Rule(
            "has(self.values)",
            "spec.rollout.match.values is missing: type for example `match: {header: x-group, values: [beta, staff]}`",
        ),
        Rule(
            f"!has(self.values) || self.values.all(v, v.matches('^{HEADER_VALUE}$'))",
            "spec.rollout.match.values has a value with a space, a comma or a character beyond printable ASCII: type"
            " for example `values: [beta, staff]`",
            ".values",
        ),
    )


@dataclass(frozen=True)
class ErrorGate:
    """Limit of the failures of the candidate."""

    max_percent: Annotated[
        float,
        Doc(
            "Maximum failure rate of the candidate beyond that of stable, in percent, 0.1 to 50. Before the weight"
            " rises to W, the failure rate must be proven to be below 100 * maxPercent / W percent, so that at most"
            " maxPercent of all requests fail. Default: 1."
        ),
    ] = 1.0

    rules: ClassVar = (
        # A rule and not a minimum: the API server rounds a fractional minimum down when the value is an integer.
        Rule(
            "!has(self.maxPercent) || (double(self.maxPercent) >= 0.1 && double(self.maxPercent) <= 50.0)",
            "spec.rollout.gates.errors.maxPercent must be 0.1 to 50: type for example `maxPercent: 1`",
            ".maxPercent",
        ),
    )


@dataclass(frozen=True)
class LatencyGate:
    """Limits of the candidate's prediction time, for requests of stable that are repeated on both."""

    max_increase_percent: Annotated[
        float,
        Doc(
            "Maximum increase of the prediction time from stable to the candidate, in percent, 1 to 1000. The candidate"
            " is rejected if more than half of its predictions take longer. To each time 0.5 ms is added before."
            " Default: 50."
        ),
    ] = 50.0
    max_milliseconds: Annotated[
        float | None,
        Doc(
            "Maximum prediction time of the candidate at percentile, in milliseconds, 0.1 to 600000. It does not"
            " contain the wait for a CPU, for the network and for other requests. Default: off."
        ),
    ] = None
    percentile: Annotated[
        int,
        Doc(
            "Percentage of the predictions that must not take longer than maxMilliseconds, 50 to 99. Without"
            " maxMilliseconds it has no effect. Default: 99."
        ),
        Limits(50, 99),
    ] = 99

    rules: ClassVar = (
        # Rules and not bounds: the API server rounds a fractional bound down when the value is an integer.
        Rule(
            "!has(self.maxIncreasePercent)"
            " || (double(self.maxIncreasePercent) >= 1.0 && double(self.maxIncreasePercent) <= 1000.0)",
            "spec.rollout.gates.latency.maxIncreasePercent must be 1 to 1000: type for example"
            " `maxIncreasePercent: 50`",
            ".maxIncreasePercent",
        ),
        Rule(
            "!has(self.maxMilliseconds)"
            " || (double(self.maxMilliseconds) >= 0.1 && double(self.maxMilliseconds) <= 600000.0)",
            "spec.rollout.gates.latency.maxMilliseconds must be 0.1 to 600000: type for example `maxMilliseconds: 20`",
            ".maxMilliseconds",
        ),
    )


@dataclass(frozen=True)
class AgreementGate:
    """Limit of the answers that may change, for requests of stable that are repeated on both."""

    min_percent: Annotated[
        float | None,
        Doc(
            "Minimum share of the answers that agree with stable's, in percent, 0 to 100: equal labels, or numbers that"
            " differ by at most a tenth of the standard deviation of stable's answers. A model that answers the same"
            " request differently each time may differ as much in addition. Answers of another form, numbers far"
            " outside stable's range, and one answer to everything are rejected with any value. Default: 50 for labels,"
            " none for numbers."
        ),
    ] = None

    rules: ClassVar = (
        Rule(
            "!has(self.minPercent) || (double(self.minPercent) >= 0.0 && double(self.minPercent) <= 100.0)",
            "spec.rollout.gates.agreement.minPercent must be 0 to 100: type for example `minPercent: 95`",
            ".minPercent",
        ),
    )


@dataclass(frozen=True)
class QualityGate:
    """Limit of the share of right predictions, by labels that are posted to /feedback during the rollout."""

    metric: Annotated[
        str,
        Doc(
            "What is right: accuracy (the label is the predicted class) or within (the predicted number differs from"
            " the label by at most `within`). Default: accuracy."
        ),
    ] = "accuracy"
    within: Annotated[
        float | None,
        Doc(
            "Largest error of a right prediction, in the unit of the label, 0.000000001 to 1000000000; it is rounded up"
            " by at most 6 %. Required for the metric within, and not allowed for accuracy."
        ),
    ] = None
    max_drop: Annotated[
        float,
        Doc(
            "Maximum decrease of the share of right predictions from stable to the candidate, as a fraction, 0.001 to"
            " 0.5. Only predictions that the router drew count, so both versions answered the same kind of requests in"
            " the same time. A change applies to labels that come later. Default: 0.02."
        ),
    ] = 0.02
    min_labels: Annotated[
        int,
        Doc(
            "Minimum number of labels of each version before the candidate can be rolled back, 1 to 1000000. The"
            " rollout does not wait for labels. Default: 200."
        ),
        Limits(1, 1_000_000),
    ] = 200

    rules: ClassVar = (
        # A rule and not an enumeration, and rules and not bounds: so the message says what to type.
        Rule(
            "!has(self.metric) || self.metric in ['accuracy', 'within']",
            "spec.rollout.gates.quality.metric must be accuracy (for classes) or within (for numbers): type for example"
            " `quality: {metric: accuracy}` or `quality: {metric: within, within: 0.5}`",
            ".metric",
        ),
        Rule(
            "(has(self.metric) && self.metric == 'within') == has(self.within)",
            "spec.rollout.gates.quality: `within` is the largest error of a right prediction, for the metric within"
            " only: type for example `quality: {metric: within, within: 0.5}`",
        ),
        Rule(
            "!has(self.within) || (double(self.within) >= 0.000000001 && double(self.within) <= 1000000000.0)",
            "spec.rollout.gates.quality.within must be 0.000000001 to 1000000000: type for example `within: 0.5`",
            ".within",
        ),
        Rule(
            "!has(self.maxDrop) || (double(self.maxDrop) >= 0.001 && double(self.maxDrop) <= 0.5)",
            "spec.rollout.gates.quality.maxDrop is a fraction, 0.001 to 0.5: type for example `maxDrop: 0.02` for two"
            " percentage points",
            ".maxDrop",
        ),
    )


@dataclass(frozen=True)
class Gates:
    """Tests that a candidate must pass. Each gate has a default; that of quality is off, because it needs labels."""

    errors: Annotated[
        ErrorGate, Doc("Sequential test of the error rate; its result is valid however often it is evaluated.")
    ] = field(default_factory=ErrorGate)
    latency: Annotated[
        LatencyGate,
        Doc("Sequential test of the prediction time, on requests of stable that are repeated on both versions."),
    ] = field(default_factory=LatencyGate)
    agreement: Annotated[
        AgreementGate,
        Doc("Sequential test of the answers, on requests of stable that are repeated on both versions."),
    ] = field(default_factory=AgreementGate)
    quality: Annotated[
        QualityGate | None,
        Doc(
            "Sequential test of the share of right predictions, by labels. A client that may post labels decides about"
            " the candidate, so require API keys (`spec.serving.apiKeys`) and set `spec.serving.feedbackKey`. Default:"
            " off; `quality: {}` turns it on with its defaults."
        ),
    ] = None


@dataclass(frozen=True)
class Rehearsal:
    """Repetition of stable's own requests on the candidate, before its first request and while it is rolled out."""

    requests: Annotated[
        int,
        Doc(
            "Maximum number of predictions that each pod keeps in memory, 0 to 10000, within 16 MiB and 24 hours. The"
            " pods of stable repeat them on the candidate, and only counts leave the pods. 0 turns the rehearsal off. A"
            " change applies to the pods of the next revision. Default: 1000."
        ),
        Limits(0, 10_000),
    ] = 1000


@dataclass(frozen=True)
class Rollout:
    """How a candidate replaces stable."""

    steps: Annotated[
        tuple[Step, ...],
        Doc(
            "Canary steps, 1 to 20, with increasing weights; after the last one the candidate gets all requests."
            " Default: the weights 5, 25 and 50."
        ),
        Limits(1, 20),
    ] = (Step(5), Step(25), Step(50))
    sticky: Annotated[
        Sticky | None,
        Doc(
            "Keeps each user on one side: a prediction with the header goes by a hash of its value, so a higher weight"
            " moves users from stable to the candidate and none back. Such a request does not count as evidence."
            " Default: off, every request is drawn."
        ),
    ] = None
    match: Annotated[
        Match | None,
        Doc(
            "Sends predictions with one of these values of a header to the candidate, from the first step on. Such a"
            " request does not count as evidence. Default: off."
        ),
    ] = None
    gates: Annotated[Gates, Doc("Tests that the candidate must pass in every step and while it bakes.")] = field(
        default_factory=Gates
    )
    rehearsal: Annotated[
        Rehearsal,
        Doc(
            "Proof from requests that stable has answered before: it takes seconds at any traffic, and exposes no user."
        ),
    ] = field(default_factory=Rehearsal)
    bake_seconds: Annotated[
        int,
        Doc(
            "Time in seconds, 0 to 604800 (7 days), that stable keeps its pods and the gates continue after the"
            " candidate has got all requests. Default: 60."
        ),
        Limits(0, 604_800),
    ] = 60
    preparing_deadline_seconds: Annotated[
        int,
        Doc(
            "Time in seconds, 10 to 86400 (1 day), after which a candidate without enough ready pods for the first step"
            " is rejected, and one that has lost all its ready pods is rolled back. Default: 300."
        ),
        Limits(10, 86_400),
    ] = 300
    on_no_evidence: Annotated[
        OnNoEvidence,
        Doc(
            "What to do when a step has lasted maxSeconds without a verdict: Hold (wait for more requests), Promote"
            " (take the next step) or RollBack. Proceed is Hold, but for a model that gets no request: if every router"
            " and, in a rehearsal, every pod of stable shows that none has come since the pods started, each step takes"
            " 5 s, and the version is called unproven."
            " Default: Proceed."
        ),
    ] = "Proceed"
    max_seconds: Annotated[
        int,
        Doc("Time in seconds, 1 to 2592000 (30 days), after which onNoEvidence applies to a step. Default: 3600."),
        Limits(1, 2_592_000),
    ] = 3600
    retry: Annotated[
        str,
        Doc(
            "Any text of at most 63 characters. A text with which the revision that the spec asks for was not rejected"
            " before retries it; a former text, as after a revert in Git, does not. Default: empty."
        ),
        Limits(maximum=63),
    ] = ""
    paused: Annotated[
        bool,
        Doc("Stops increases of the candidate's weight; repair, scaling and rollback continue. Default: false."),
    ] = False

    rules: ClassVar = (
        Rule(
            "!has(self.steps) || self.steps.all(s, s.weight >= 0 && s.weight <= 99)",
            "spec.rollout.steps: each weight must be 0 to 99; after the last step the candidate gets all requests, so"
            " remove a step of 100",
            ".steps",
        ),
        Rule(
            "!has(self.steps) || self.steps.all(s, s.weight > 0 || !has(s.minRequests) || s.minRequests == 0)",
            "spec.rollout.steps: no request counts at a weight of 0, so remove its minRequests: type for example"
            " `{weight: 0, minSeconds: 600}` or `{weight: 0, pause: true}`",
            ".steps",
        ),
        Rule(
            "!has(self.steps) || self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1)"
            " && self.steps.map(s, s.weight).isSorted()",
            "spec.rollout.steps: each weight must be above the one before: type for example `steps: [{weight: 5},"
            " {weight: 25}, {weight: 50}]`",
            ".steps",
        ),
    )


@dataclass(frozen=True)
class RouterSpec:
    """The HAProxy router in front of the revisions."""

    replicas: Annotated[int, Doc("Number of router pods, 1 to 100. Default: 1."), Limits(1, 100)] = 1
    resources: Annotated[
        RouterResources, Doc("CPU and memory of each router pod. A change replaces the router pods one by one.")
    ] = field(default_factory=RouterResources)


@dataclass(frozen=True)
class Tls:
    """The certificate with which the routers accept TLS, for HTTP and gRPC."""

    secret_name: Annotated[
        str,
        Doc(
            "Name of a Secret of type kubernetes.io/tls in the namespace of the MLModel, at most 253 characters, as"
            " cert-manager writes it: `tls.crt` is a PEM chain, `tls.key` its key without a password. The routers"
            " mount it, and take a renewed certificate within a minute or two, without a restart; without the Secret"
            " no new router pod starts. Required."
        ),
        Limits(maximum=253),
    ]
    allow_plain_text: Annotated[
        bool,
        Doc(
            "Whether ports 80 and 9000 of the Service also answer without TLS, for example until all clients use TLS."
            " If false, they answer 403 (gRPC: FAILED_PRECONDITION); only /v2/health/live and /v2/health/ready answer."
            " Default: false."
        ),
    ] = False

    rules: ClassVar = _secret_rules(
        "spec.traffic.tls", "tls: {secretName: fraud-tls}", "a Secret of type kubernetes.io/tls"
    )


@dataclass(frozen=True)
class Traffic:
    """How requests reach the revisions."""

    router: Annotated[RouterSpec, Doc("HAProxy router, which sends each request to stable or to the candidate.")] = (
        field(default_factory=RouterSpec)
    )
    timeout_seconds: Annotated[
        int,
        Doc(
            "Time in seconds, 1 to 600, that the model may take for a response before the client gets 504. In a rollout"
            " the candidate has less: what stable normally takes and a margin, before the request is retried on stable,"
            " which has all of it. A change replaces the router pods one by one. Default: 60."
        ),
        Limits(1, 600),
    ] = 60
    tls: Annotated[
        Tls | None,
        Doc(
            "TLS at the routers: port 443 of the Service for HTTP, 9443 for gRPC. A change of this field replaces the"
            " router pods one by one. Default: none, plain HTTP on port 80 and gRPC on port 9000."
        ),
    ] = None


@dataclass(frozen=True)
class Spec:
    """The whole ``spec`` of an MLModel; only ``model.uri`` is required."""

    model: Annotated[ModelSource, Doc("Model to serve. A change makes a new revision, which is rolled out. Required.")]
    serving: Annotated[Serving, Doc("Pods that serve the model.")] = field(default_factory=Serving)
    rollout: Annotated[
        Rollout,
        Doc(
            "How the candidate (the new revision) replaces stable (the one that serves). A change takes effect at once,"
            " even during a rollout, and starts none."
        ),
    ] = field(default_factory=Rollout)
    traffic: Annotated[Traffic, Doc("How requests reach the revisions.")] = field(default_factory=Traffic)

    rules: ClassVar = (
        Rule(
            "has(self.model)",
            "spec.model is missing: add the model to serve, for example `model: {uri: configmap://my-model-v1}`",
        ),
    )


@dataclass(frozen=True)
class Snapshot:
    """Copy of what the pods of a revision run. The operator repairs the revision from it when the spec has changed.

    The image is not part of the identity of a revision: an upgrade of the operator brings a newer server image to the
    next revision, and restarts no pod of the present one. Nor is a digest that only the operator has computed.
    """

    model: Annotated[ModelSource, Doc("Copy of spec.model.")]
    image: Annotated[str, Doc("Image of the model server.")]
    resources: Annotated[Resources, Doc("Copy of spec.serving.resources.")] = field(default_factory=Resources)
    batching: Annotated[Batching, Doc("Copy of spec.serving.batching.")] = field(default_factory=Batching)
    api_keys: Annotated[ApiKeys | None, Doc("Copy of spec.serving.apiKeys.")] = None
    refresh: Annotated[str, Doc("Copy of spec.serving.refresh.")] = ""
    feedback_key: Annotated[FeedbackKey | None, Doc("Copy of spec.serving.feedbackKey.")] = None
    files_sha256: Annotated[
        str,
        Doc(
            "SHA-256 digest of the files of the ConfigMap when the revision started, as 64 hexadecimal digits: its pods"
            " serve nothing else. Absent for other sources, and with spec.model.sha256."
        ),
    ] = ""

    @property
    def unpinned_config_map(self) -> str:
        """Name of the ConfigMap with the model if the spec has no digest of it; else empty."""
        return "" if self.model.sha256 else self.model.config_map

    @property
    def digest(self) -> str:
        """That of the spec, else that of the ConfigMap when the revision started; empty if there is neither."""
        return self.model.digest or (f"sha256:{self.files_sha256}" if self.files_sha256 else "")


@dataclass(frozen=True)
class Revision:
    """One identity of ``spec.model`` and of the parts of ``spec.serving`` that change a pod."""

    id: str
    snapshot: Snapshot

    @property
    def label(self) -> str:
        """Human-readable version: that of the spec, else the first 7 digits of the digest, else of the revision."""
        model = self.snapshot.model
        return model.version or model.digest.removeprefix("sha256:")[:7] or self.id[:7]


@dataclass(frozen=True)
class Owner:
    """The MLModel that owns a child: its name, namespace and UID."""

    name: str
    namespace: str
    uid: str


@dataclass(frozen=True)
class MLModel:
    """One MLModel as read from the API server."""

    owner: Owner
    generation: int
    spec: Spec
    annotations: Mapping[str, str] = field(default_factory=dict)
    """The annotations of ours, whose names begin with the API group."""
