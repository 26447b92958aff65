"""MLModel as frozen dataclasses: what a user writes in ``spec``.

Only fields that the operator honours exist here; the CRD is generated from this module (see ``crd.py``), so a field
without effect cannot reach the schema. Names are snake_case here and camelCase on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from mlmodel_operator.api.schema import Doc, Limits, Quantity, Rule

ModelFormat = Literal[
    "auto", "sklearn", "skops", "joblib", "onnx", "xgboost", "lightgbm", "pytorch", "tensorflow", "mlflow"
]
Trust = Literal["strict", "signed", "unsafe"]
OnNoEvidence = Literal["Hold", "Promote", "RollBack"]

MAX_NAME = 40

_NAME = "[a-z0-9][a-z0-9.-]*"
# Registry with an optional port, repository, and a tag, a digest, or both.
_IMAGE = "[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?"
_URI = (
    f"^(builtin://{_NAME}|configmap://{_NAME}|pvc://{_NAME}(/[^/]+)*|https://[^/]+/.+"
    f"|(s3|gs|az)://[a-z0-9][a-z0-9._-]*/.+|oci://{_IMAGE})$"
)


@dataclass(frozen=True)
class ModelSource:
    """What is served. Together with how its pods are run its hash is the revision."""

    uri: Annotated[
        str,
        Doc(
            "Where the model is: builtin://NAME (in the server image), configmap://NAME (a model package of at most"
            " 1 MiB in this namespace), pvc://CLAIM/PATH, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or"
            " https://HOST/PATH (these need sha256), or oci://REGISTRY/REPOSITORY@sha256:DIGEST (an image, mounted by"
            " the node)."
        ),
        Limits(maximum=1024),
    ]
    version: Annotated[
        str,
        Doc("Name of this version for people, shown in columns, metrics and headers. Default: the head of the digest."),
        Limits(maximum=63),
    ] = ""
    sha256: Annotated[
        str,
        Doc(
            "SHA-256 of the file, or of mlmodel.json for a package (it lists the digest of every file), as 64"
            " hexadecimal digits. Checked before anything is parsed. Required for https, s3, gs and az, and for oci"
            " without a digest in the uri."
        ),
        Limits(maximum=64),
    ] = ""
    format: Annotated[
        ModelFormat,
        Doc(
            "What the artefact must be; auto takes whatever the package or the file itself says it is, sklearn is skops"
            " or joblib. Default: auto."
        ),
    ] = "auto"
    trust: Annotated[
        Trust,
        Doc(
            "What may be opened: strict (only what cannot run code), signed (anything with a valid signature; needs an"
            " operator with --signing-keys), or unsafe (anything; needs an operator with --allow-unsafe-models)."
            " Default: strict."
        ),
    ] = "strict"

    rules: ClassVar = (
        Rule(
            "has(self.uri)",
            "spec.model.uri is missing: say where the model is, for example `uri: configmap://my-model-v1`",
        ),
        Rule(
            f"!has(self.uri) || self.uri.matches('{_URI}')",
            "spec.model.uri must be builtin://NAME, configmap://NAME, pvc://CLAIM/PATH, s3://BUCKET/KEY,"
            " gs://BUCKET/KEY, az://CONTAINER/KEY, https://HOST/PATH or oci://REGISTRY/REPOSITORY@sha256:DIGEST",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.contains('..')",
            "spec.model.uri must not contain `..`: type the path from the root of the claim",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.matches('^(https|s3|gs|az)://') || (has(self.sha256) && self.sha256 != '')",
            "spec.model.sha256 is required for https, s3, gs and az: type the output of `sha256sum FILE`, so that what"
            " was tested is what gets served",
            ".uri",
        ),
        Rule(
            "!has(self.uri) || !self.uri.startsWith('oci://') || self.uri.contains('@sha256:')"
            " || (has(self.sha256) && self.sha256 != '')",
            "spec.model.uri names an image that can change: add its digest, oci://REGISTRY/REPOSITORY@sha256:DIGEST, or"
            " type the output of `sha256sum FILE` for the model in it as sha256",
            ".uri",
        ),
        Rule(
            "!has(self.sha256) || self.sha256.matches('^([0-9a-f]{64})?$')",
            "spec.model.sha256 must be 64 lower-case hexadecimal digits, as `sha256sum FILE` prints them, without a"
            " prefix",
            ".sha256",
        ),
        Rule(
            "!has(self.version) || self.version.matches('^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$')",
            "spec.model.version may have letters, digits, `.`, `_` and `-`, and starts and ends with a letter or"
            " digit: type for example `version: v7`",
            ".version",
        ),
    )

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits, of the model or the image that it is in; empty when none is pinned."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return self.uri.partition("@")[2] if self.uri.startswith("oci://") else ""


@dataclass(frozen=True)
class Resources:
    """Compute resources of one serving pod."""

    requests: Annotated[
        Mapping[str, Quantity],
        Doc("What is reserved for a pod: cpu and memory as Kubernetes quantities. Default: cpu 100m, memory 256Mi."),
        Limits(maximum=2),
    ] = field(default_factory=dict)
    limits: Annotated[
        Mapping[str, Quantity],
        Doc("What a pod may use at most: cpu and memory as Kubernetes quantities. Default: no limit."),
        Limits(maximum=2),
    ] = field(default_factory=dict)

    rules: ClassVar = tuple(
        Rule(
            f"!has(self.{amounts}) || self.{amounts}.all(key, key in ['cpu', 'memory'])",
            f"spec.serving.resources.{amounts} takes cpu and memory: type for example `{amounts}: {{cpu: 500m, memory:"
            " 512Mi}`",
            f".{amounts}",
        )
        for amounts in ("requests", "limits")
    ) + tuple(
        Rule(
            f"!has(self.requests) || !has(self.limits) || !('{name}' in self.requests) || !('{name}' in self.limits)"
            f" || quantity(string(self.requests['{name}'])).compareTo(quantity(string(self.limits['{name}']))) <= 0",
            f"spec.serving.resources: the {name} limit is below the {name} request: raise limits.{name} or lower"
            f" requests.{name}",
        )
        for name in ("cpu", "memory")
    )


@dataclass(frozen=True)
class Autoscaling:
    """Bounds and target of the HorizontalPodAutoscaler that each revision gets for itself."""

    max_replicas: Annotated[int, Doc("Most pods of one revision."), Limits(1, 1000)]
    min_replicas: Annotated[int, Doc("Fewest pods of one revision. Default: 1."), Limits(1, 1000)] = 1
    cpu_percent: Annotated[
        int, Doc("CPU use, in percent of the request, that the autoscaler aims at. Default: 80."), Limits(1, 1000)
    ] = 80

    rules: ClassVar = (
        Rule(
            "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
            "spec.serving.autoscaling.minReplicas is above maxReplicas: lower minReplicas or raise maxReplicas",
        ),
    )


@dataclass(frozen=True)
class Batching:
    """How requests that wait are predicted together; a request that finds the model idle never waits for others."""

    max_rows: Annotated[
        int, Doc("Most rows that are predicted together; 1 turns batching off. Default: 64."), Limits(1, 65_536)
    ] = 64


@dataclass(frozen=True)
class ApiKeys:
    """Who may ask the model: whoever sends a key whose hash is in the Secret."""

    secret_name: Annotated[
        str,
        Doc(
            "Secret of this namespace whose key `keys` has a line `NAME: SHA256` for each API key; the hash is what"
            " `printf %s KEY | sha256sum` prints. Changed lines count within a minute or two; no pod starts without"
            " the Secret."
        ),
        Limits(maximum=253),
    ]

    rules: ClassVar = (
        Rule(
            "has(self.secretName)",
            "spec.serving.apiKeys.secretName is missing: name the Secret with the keys, for example `apiKeys:"
            " {secretName: fraud-keys}`",
        ),
        Rule(
            "!has(self.secretName) || self.secretName.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
            "spec.serving.apiKeys.secretName must be the name of a Secret: type for example `apiKeys: {secretName:"
            " fraud-keys}`",
            ".secretName",
        ),
    )


@dataclass(frozen=True)
class Serving:
    """How much capacity serves the model; ``replicas`` and ``autoscaling`` exclude each other."""

    replicas: Annotated[
        int | None, Doc("Number of pods. Default: 1. Leave it out with autoscaling."), Limits(1, 1000)
    ] = None
    autoscaling: Annotated[
        Autoscaling | None, Doc("Lets the number of pods follow the CPU use. Leave out replicas then.")
    ] = None
    resources: Annotated[
        Resources, Doc("Compute resources of one serving pod. A change here is a new revision and is rolled out.")
    ] = field(default_factory=Resources)
    batching: Annotated[
        Batching, Doc("Predicting what waits together. A change here is a new revision and is rolled out.")
    ] = field(default_factory=Batching)
    api_keys: Annotated[
        ApiKeys | None,
        Doc(
            "Asks every caller for an API key. A change here is a new revision and is rolled out. Default: nobody is"
            " asked."
        ),
    ] = None

    rules: ClassVar = (
        Rule(
            "!(has(self.replicas) && has(self.autoscaling))",
            "spec.serving has both replicas and autoscaling: keep `replicas: N` for a fixed number of pods, or"
            " `autoscaling: {maxReplicas: N}`, and remove the other",
        ),
    )


@dataclass(frozen=True)
class Step:
    """One canary step."""

    weight: Annotated[int, Doc("Share of the requests that the candidate gets, in percent."), Limits(0, 100)]
    min_requests: Annotated[
        int,
        Doc("Fewest requests that the candidate must have answered in this step. Default: 0."),
        Limits(0, 100_000_000),
    ] = 0
    min_seconds: Annotated[int, Doc("Shortest time in this step, in seconds. Default: 0."), Limits(0, 2_592_000)] = 0


@dataclass(frozen=True)
class ErrorGate:
    """How many requests may fail."""

    max_percent: Annotated[
        float,
        Doc(
            "Percentage of requests that the candidate may fail more than stable does. Each step is certified for"
            " the share of all users that it exposes. Default: 1."
        ),
    ] = 1.0

    rules: ClassVar = (
        # A rule and not a minimum: the API server rounds a fractional minimum down when the value is an integer.
        Rule(
            "!has(self.maxPercent) || (double(self.maxPercent) >= 0.1 && double(self.maxPercent) <= 50.0)",
            "spec.rollout.gates.errors.maxPercent is from 0.1 to 50: type for example `maxPercent: 1`",
            ".maxPercent",
        ),
    )


@dataclass(frozen=True)
class Gates:
    """What is tested; every gate has a default, so that a rollout is never blind."""

    errors: Annotated[ErrorGate, Doc("The error rate, by a sequential test that may be looked at any time.")] = field(
        default_factory=ErrorGate
    )


@dataclass(frozen=True)
class Rollout:
    """How a new revision takes over."""

    steps: Annotated[
        tuple[Step, ...],
        Doc("The shares that the candidate gets one after the other, before it gets all. Default: 5, 25, 50."),
        Limits(1, 20),
    ] = (Step(5), Step(25), Step(50))
    gates: Annotated[Gates, Doc("What is tested, at every step and while baking.")] = field(default_factory=Gates)
    bake_seconds: Annotated[
        int,
        Doc(
            "How long the old version is kept warm, and the gates go on, after the new one has got all requests, in"
            " seconds. Default: 60."
        ),
        Limits(0, 604_800),
    ] = 60
    preparing_deadline_seconds: Annotated[
        int, Doc("How long a new version may take to become ready, in seconds. Default: 300."), Limits(10, 86_400)
    ] = 300
    on_no_evidence: Annotated[
        OnNoEvidence,
        Doc("What happens when maxSeconds have passed in a step without a verdict: Hold, Promote or RollBack."),
    ] = "Hold"
    max_seconds: Annotated[
        int, Doc("How long a step waits for a verdict, in seconds. Default: 3600."), Limits(1, 2_592_000)
    ] = 3600
    retry: Annotated[
        str, Doc("Change it to any other text to try a rejected version again. Default: empty."), Limits(maximum=63)
    ] = ""
    paused: Annotated[
        bool, Doc("Stops increases of the candidate's share; repair, scaling and rollback go on. Default: false.")
    ] = False

    rules: ClassVar = (
        Rule(
            "!has(self.steps) || self.steps.all(s, s.weight >= 1 && s.weight <= 99)",
            "spec.rollout.steps: a weight is from 1 to 99; all requests (100) come after the last step by themselves",
            ".steps",
        ),
        Rule(
            "!has(self.steps) || self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1)"
            " && self.steps.map(s, s.weight).isSorted()",
            "spec.rollout.steps: weights must rise from step to step: type for example `steps: [{weight: 5}, {weight:"
            " 25}, {weight: 50}]`",
            ".steps",
        ),
    )


@dataclass(frozen=True)
class RouterSpec:
    """The HAProxy router in front of the revisions."""

    replicas: Annotated[int, Doc("Number of router pods. Default: 1."), Limits(1, 100)] = 1


@dataclass(frozen=True)
class Traffic:
    """How requests reach the revisions."""

    router: Annotated[RouterSpec, Doc("The router that draws which version answers a request.")] = field(
        default_factory=RouterSpec
    )


@dataclass(frozen=True)
class Spec:
    """The whole ``spec`` of an MLModel; only ``model.uri`` is required."""

    model: Annotated[ModelSource, Doc("What is served. A change here is a new revision and is rolled out.")]
    serving: Annotated[Serving, Doc("How much capacity serves it.")] = field(default_factory=Serving)
    rollout: Annotated[Rollout, Doc("How a new revision takes over. A change here starts no rollout.")] = field(
        default_factory=Rollout
    )
    traffic: Annotated[Traffic, Doc("How requests reach the model.")] = field(default_factory=Traffic)

    rules: ClassVar = (
        Rule(
            "has(self.model)",
            "spec.model is missing: say what to serve, for example `model: {uri: configmap://my-model-v1}`",
        ),
    )


@dataclass(frozen=True)
class Snapshot:
    """What the pods of a revision run, kept whole so that it can be brought back when the spec has long moved on.

    The image is part of it and not of the identity: an upgrade of the operator brings a newer server image to the next
    revision, and restarts no pod of the present one.
    """

    model: ModelSource
    image: str
    resources: Resources = field(default_factory=Resources)
    batching: Batching = field(default_factory=Batching)
    api_keys: ApiKeys | None = None


@dataclass(frozen=True)
class Revision:
    """One version of a model as it runs."""

    id: str
    snapshot: Snapshot

    @property
    def label(self) -> str:
        """The version as people see it: the given one, else the head of the digest, else of the revision."""
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
