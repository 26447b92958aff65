"""Every machine-readable reason that a condition, an Event or ``status.rejected`` can have."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One CamelCase word, the sentence that explains it, and what the reader can do about it."""

    meaning: str
    action: str

    def __new__(cls, word: str, meaning: str, action: str = "Nothing.") -> Reason:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        member.action = action
        return member

    # A rollout without a failure, in its order.
    PREPARING = "Preparing", "The pods of the desired revision start; they get no request yet."
    ROUTING = "Routing", "The first revision is ready; the routers have not confirmed the routes to it yet."
    VALIDATING = (
        "Validating",
        "The pods of stable repeat requests that they have answered on the candidate, which gets no request of a user.",
    )
    CANARY_STEP = "CanaryStep", "The weight of the candidate has risen to that of the next step."
    CANARY = "Canary", "The candidate gets the weight of its step, and the operator gathers evidence."
    PROMOTING = "Promoting", "The candidate has passed all steps and scales to the full number of pods."
    BAKING = "Baking", "The candidate gets all requests; stable keeps its pods for bakeSeconds."
    PROMOTED = "Promoted", "The candidate has become stable."
    SERVING = "Serving", "The version in the message serves requests."

    # A rollout that waits, or stops without a failure.
    INSUFFICIENT_EVIDENCE = (
        "InsufficientEvidence",
        "The step has lasted longer than maxSeconds without proof for the next one, and onNoEvidence is"
        " Proceed or Hold.",
        "Send more requests, raise gates.errors.maxPercent, or set onNoEvidence to Promote or RollBack.",
    )
    PAUSED = (
        "Paused",
        "spec.rollout.paused is true, so the weight does not rise.",
        "Set spec.rollout.paused to false to continue.",
    )
    AWAITING_APPROVAL = (
        "AwaitingApproval",
        "The step has its evidence, and requires an approval because of `pause: true`.",
        "Type the command in the message, or correct the model. The annotation approves this step of this revision"
        " only.",
    )
    NOT_PAUSED = "NotPaused", "spec.rollout.paused is false."
    SUPERSEDED = (
        "Superseded",
        "The candidate was withdrawn: the spec asks for another revision, or the operator may no longer serve this"
        " one.",
    )
    REVERTED = "Reverted", "The candidate was withdrawn: the spec asks for the stable revision again."
    STABLE_DOWN = (
        "StableDown",
        "Stable has had no ready pod for 3 s, so the candidate gets all requests until stable has one again.",
        "Find out why the pods of stable are not ready: `kubectl describe pods`.",
    )
    STABLE_BACK = "StableBack", "Stable has a ready pod again, so the candidate gets the weight of its step again."

    STABLE_UNWELL = (
        "StableUnwell",
        "A verdict about the candidate was held and not recorded, because stable was in trouble at the same time: it"
        " failed or slowed down too, or its pods restarted or were not ready. Stable gets all requests; the canary"
        " starts again when stable has been well for 15 s, after each further hold twice as long, at most 300 s.",
        "Find out what slows or stops both versions: CPU, memory and nodes of the pods, and what the model calls.",
    )

    # A rollback, and why.
    ROLLING_BACK = "RollingBack", "The candidate gets no new request; not every router has confirmed that yet."
    ROLLED_BACK = (
        "RolledBack",
        "The desired revision was rolled back, or rejected before its first request; stable gets all requests.",
        "Correct spec.model or spec.serving, or change spec.rollout.retry to retry the same revision.",
    )
    NOT_ROLLED_BACK = "NotRolledBack", "The desired revision was not rolled back."
    ERROR_RATE = (
        "ErrorRate",
        "The candidate alone failed more requests than gates.errors.maxPercent allows.",
        "Correct the model, or raise gates.errors.maxPercent.",
    )
    ERROR_RATE_ABOVE_STABLE = (
        "ErrorRateAboveStable",
        "The candidate failed more of its requests than stable in the same time, by more than gates.errors.maxPercent.",
        "Correct the model, or raise gates.errors.maxPercent.",
    )
    REHEARSAL_ERRORS = (
        "RehearsalErrors",
        "The candidate failed more of the requests that were repeated on both versions than stable, by more than"
        " gates.errors.maxPercent.",
        "Correct the model: it must answer the requests that stable answers.",
    )
    OTHER_FORM = (
        "OtherForm",
        "The candidate's answers have outputs of other names, types or shapes than those of stable.",
        "Correct the model, or accept the change if your clients know it.",
    )
    SLOWER_THAN_STABLE = (
        "SlowerThanStable",
        "The candidate's predictions take longer than those of stable, by more than gates.latency.maxIncreasePercent.",
        "Make the model faster, or raise gates.latency.maxIncreasePercent.",
    )
    ABOVE_MAX_MILLISECONDS = (
        "AboveMaxMilliseconds",
        "The candidate's predictions take longer than gates.latency.maxMilliseconds at the percentile of that gate.",
        "Make the model faster, or raise gates.latency.maxMilliseconds.",
    )
    OTHER_ANSWERS = (
        "OtherAnswers",
        "Too many of the candidate's answers differ from those of stable: they changed, left its range or became"
        " constant.",
        "Check labels, units and the order of columns; accept the change if it is intended, or lower"
        " gates.agreement.minPercent.",
    )
    LOWER_QUALITY = (
        "LowerQuality",
        "The candidate's predictions were right less often than those of stable in the same time, by more than"
        " gates.quality.maxDrop, according to the labels that were posted.",
        "Find out with the confusion matrix of the candidate's metrics what it predicts wrong, and train it again; or"
        " raise gates.quality.maxDrop.",
    )
    MODEL_REJECTED = (
        "ModelRejected",
        "The server rejected the model and exited with code 3.",
        "Correct the model as the message says.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "The kernel killed the container because it used more memory than its limit.",
        "Raise limits.memory in spec.serving.resources; for the router in spec.traffic.router.resources.",
    )
    IMAGE_FAILED = (
        "ImageFailed",
        "The node cannot pull an image or cannot create the container.",
        "Correct what the message names: the image in spec.model.uri or that of the operator's settings, its"
        " credentials or its registry.",
    )
    CRASH_LOOP = (
        "CrashLoop",
        "The container exited repeatedly with an error.",
        "Read its log: `kubectl logs --previous`.",
    )
    NEVER_READY = (
        "NeverReady",
        "Too few pods became ready within preparingDeadlineSeconds, before the first request or for a later weight.",
        "Correct what the message names, or raise spec.rollout.preparingDeadlineSeconds.",
    )
    NOT_READY = (
        "NotReady",
        "The candidate had no ready pod for preparingDeadlineSeconds, though it had before.",
        "Find out why its pods are not ready: `kubectl describe pods`.",
    )
    NO_TRAFFIC = (
        "NoTraffic",
        "The step was taken without proof, because no request came since the pods of stable started: every router and"
        " every pod of stable shows it.",
        "Nothing; or set onNoEvidence to Hold, so that each step waits for requests.",
    )
    NO_EVIDENCE = (
        "NoEvidence",
        "The step lasted longer than maxSeconds without proof for the next one, and onNoEvidence is RollBack.",
        "Send more requests, raise gates.errors.maxPercent, or set onNoEvidence to Hold or Promote.",
    )

    # What runs differs from what a new pod would run.
    MODEL_CHANGED = (
        "ModelChanged",
        "New pods of stable reject the model that its first pods accepted: usually it was changed at its source."
        " Pods that run go on serving.",
        "Restore the model at its source, or give the changed model a new name in spec.model.uri.",
    )
    OUTDATED_IMAGE = (
        "OutdatedImage",
        "Stable runs another server image than the one that the operator gives to new revisions.",
        "Change spec.serving.refresh to roll the new image out by canary.",
    )
    CURRENT_IMAGE = "CurrentImage", "Stable runs the server image of the operator, or no version has served yet."

    # States outside a rollout.
    NOT_SERVING = (
        "NotServing",
        "No revision answers at the address of the model.",
        "Read the message of the condition: it names what is missing.",
    )
    NOT_AVAILABLE = (
        "NotAvailable",
        "Stable has fewer ready pods than desired, no router is ready, or the address does not answer yet.",
        "Wait; if it lasts, find out why pods are not ready: `kubectl describe pods`.",
    )
    TRUST_NOT_ALLOWED = (
        "TrustNotAllowed",
        "The operator may not serve models with this spec.model.trust.",
        "Change spec.model.trust, or ask an administrator to start the operator with the option in the message.",
    )
    APPLY_REJECTED = (
        "ApplyRejected",
        "The operator cannot write an object: the API server rejects it, or another owner controls it.",
        "Correct what the message names, for example a quota or an admission policy.",
    )
    PODS_NOT_CREATED = (
        "PodsNotCreated",
        "Kubernetes cannot create pods of the version in the message or of the router: a quota, a LimitRange, an"
        " admission webhook or a policy rejects them.",
        "Change what the message names, or the resources of the pods: spec.serving.resources, or"
        " spec.traffic.router.resources for the router.",
    )
    UNSCHEDULABLE = (
        "Unschedulable",
        "No node can run a pod of the version in the message or of the router.",
        "Add nodes, or lower the requests in spec.serving.resources or spec.traffic.router.resources.",
    )
    CONFIG_MAP_MISSING = (
        "ConfigMapMissing",
        "The ConfigMap in spec.model.uri does not exist, so the pods wait for it.",
        "Apply it, or correct spec.model.uri.",
    )
    CONFIG_MAP_UNREADABLE = (
        "ConfigMapUnreadable",
        "The operator cannot read the ConfigMap in spec.model.uri, whose digest the pods require.",
        "Permit the operator to read it, or set spec.model.sha256.",
    )
    VOLUMES_NOT_MOUNTED = (
        "VolumesNotMounted",
        "The pods have waited for their volumes for 15 s, probably for a Secret with keys or a certificate.",
        "Create the Secret in the message, or correct the field in the message.",
    )
    CERTIFICATE_REJECTED = (
        "CertificateRejected",
        "The routers cannot use the renewed certificate in the Secret of spec.traffic.tls. They keep the one before.",
        "Write a PEM chain into tls.crt, and its private key without a password into tls.key.",
    )
    API_KEYS_REJECTED = (
        "ApiKeysRejected",
        "The routers cannot read the API keys in the Secret of spec.serving.apiKeys. They keep the keys before.",
        "Write a line `NAME: SHA256` for each API key into the key `keys` of the Secret.",
    )
    NO_ANSWER = (
        "NoAnswer",
        "A router pod or a Service in the message is ready and has not answered the operator for 10 s.",
        "Permit connections from the namespace of the operator to ports 8080, 8090 and 9090 of the pods of the model"
        " and to port 80 of its Service: check NetworkPolicies.",
    )
    ROUTES_NOT_FOLLOWED = (
        "RoutesNotFollowed",
        "A router pod has followed other routes for 10 s than the operator wrote on it, though it answers.",
        "Read the log of the pod in the message. If it names no cause, delete the pod: another one takes its place.",
    )
    STATUS_REBUILT = (
        "StatusRebuilt",
        "The status was empty, could not be read, contradicted the operator's records, or somebody else has written it;"
        " the operator rebuilt it from its records and from what runs, or went on with the one that it wrote last.",
        "Check that the version in the message is the one that you expect to serve, and who may write"
        " `mlmodels/status`.",
    )
    STATUS_LOST = (
        "StatusLost",
        "The status is empty or cannot be read, and no record describes the revision that serves, so the operator"
        " changes nothing.",
        "Restore the ControllerRevisions of the model from a backup, or set spec.model and spec.serving to those of"
        " the revision that serves.",
    )
    STATUS_PRUNED = (
        "StatusPruned",
        "The API server dropped fields of the status, so the operator changes nothing for the model for a minute.",
        "Install the CustomResourceDefinition of this release: `kubectl apply -f crds/mlmodels.yaml`.",
    )
    NOT_ADOPTED = (
        "NotAdopted",
        "An object without an owner has a name of this model and is not what the operator would build, so it stays"
        " unchanged.",
        "Delete the object that the message names, or restore it as the operator built it.",
    )
    EVIDENCE_RESET = (
        "EvidenceReset",
        "The state of the tests was changed so that the operator cannot read it; the tests restart from the counts of"
        " the routers.",
    )
    TOO_LARGE = (
        "TooLarge",
        "The spec or the status of the model is larger than the operator reads, so it changes nothing for the model.",
        "Shorten what the message names.",
    )
    NEWER_STATUS = (
        "NewerStatus",
        "A newer release of the operator wrote the status, so this release changes nothing for the model.",
        "Upgrade the operator to that release or a newer one.",
    )
