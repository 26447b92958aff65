"""Every machine-readable reason that a condition, an Event or ``status.rejected`` can have."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One CamelCase word, the sentence that explains it, and what a person should do about it."""

    meaning: str
    action: str

    def __new__(cls, word: str, meaning: str, action: str = "Nothing.") -> Reason:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        member.action = action
        return member

    # A rollout that goes well, in its order.
    PREPARING = "Preparing", "The pods of the new revision start; they get no request yet."
    ROUTING = "Routing", "The first revision is ready, and the routers have not confirmed their routes yet."
    CANARY_STEP = "CanaryStep", "The candidate got the weight of the next step."
    CANARY = "Canary", "The candidate gets its share of the requests and is measured."
    PROMOTING = "Promoting", "The candidate has passed all steps and grows to full capacity."
    BAKING = "Baking", "The candidate gets all requests; stable keeps its pods until the end of bakeSeconds."
    PROMOTED = "Promoted", "The candidate has become stable."
    SERVING = "Serving", "The revision in the message serves the requests."

    # A rollout that waits or ends without a failure.
    INSUFFICIENT_EVIDENCE = (
        "InsufficientEvidence",
        "The step has lasted longer than maxSeconds without proof for the next one, and onNoEvidence is Hold.",
        "Send more requests, allow more errors (gates.errors.maxPercent), or set onNoEvidence.",
    )
    PAUSED = (
        "Paused",
        "spec.rollout.paused is true: the weight does not increase.",
        "Set spec.rollout.paused to false to continue.",
    )
    NOT_PAUSED = "NotPaused", "spec.rollout.paused is false."
    SUPERSEDED = "Superseded", "The candidate was withdrawn: the spec desires another revision, or forbids this one."
    REVERTED = "Reverted", "The candidate was withdrawn: the spec desires the stable revision again."
    STABLE_DOWN = (
        "StableDown",
        "Stable had no ready pod for 30 s, so the candidate took all requests without certification.",
        "Find out why the pods of stable are not ready: `kubectl describe pods`.",
    )

    # A rollback, and why.
    ROLLING_BACK = "RollingBack", "The candidate gets no new request; not every router has confirmed that yet."
    ROLLED_BACK = (
        "RolledBack",
        "The desired revision was rolled back or rejected, and stable serves all requests.",
        "Correct spec.model, or change spec.rollout.retry to try the same revision again.",
    )
    NOT_ROLLED_BACK = "NotRolledBack", "The desired revision has not been rolled back."
    ERROR_RATE = (
        "ErrorRate",
        "The candidate failed more requests than gates.errors.maxPercent allows.",
        "Correct the model, or allow more errors.",
    )
    ERROR_RATE_ABOVE_STABLE = (
        "ErrorRateAboveStable",
        "The candidate answered with errors more often than stable did in the same time.",
        "Correct the model; 4xx answers often mean that it expects other inputs than its clients send.",
    )
    MODEL_REJECTED = (
        "ModelRejected",
        "The server rejected the model and exited with code 3.",
        "Correct the model as the message says.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "The kernel killed the container because it used more memory than its limit.",
        "Raise spec.serving.resources.limits.memory.",
    )
    IMAGE_FAILED = (
        "ImageFailed",
        "The node cannot pull an image or cannot create the container.",
        "Correct the image in spec.model.uri, the credentials, or the registry.",
    )
    CRASH_LOOP = (
        "CrashLoop",
        "The container exited repeatedly with an error.",
        "Read its log: `kubectl logs --previous`.",
    )
    NEVER_READY = (
        "NeverReady",
        "Too few pods became ready within preparingDeadlineSeconds.",
        "Remove what the message names, or raise spec.rollout.preparingDeadlineSeconds.",
    )
    NOT_READY = (
        "NotReady",
        "The candidate had no ready pod for preparingDeadlineSeconds, though it had before.",
        "Find out why its pods are not ready: `kubectl describe pods`.",
    )
    NO_EVIDENCE = (
        "NoEvidence",
        "The step lasted longer than maxSeconds without proof for the next one, and onNoEvidence is RollBack.",
        "Send more requests, allow more errors, or set onNoEvidence to Hold or Promote.",
    )

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
        "The operator runs without the right to serve models with this spec.model.trust.",
        "Change spec.model.trust, or start the operator with the option that the message names.",
    )
    APPLY_REJECTED = (
        "ApplyRejected",
        "The API server rejected an object that the operator applied.",
        "Correct what the message names, for example an admission policy.",
    )
    NEWER_STATUS = (
        "NewerStatus",
        "A newer release of the operator wrote the status, so this release changes nothing for the model.",
        "Upgrade the operator to that release or a newer one.",
    )
