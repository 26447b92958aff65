"""Where what stable runs differs from what a new pod would run: a changed model, an outdated server image."""

from __future__ import annotations

from mlmodel_operator.api.status import Stable, Status
from mlmodel_operator.rollout.observed import Observed
from mlmodel_operator.rollout.pod_failures import MODEL_REJECTED


def changed_model(observed: Observed, stable: Stable | None) -> str:
    """Return which model its new pods reject, as a sentence for messages without a full stop; empty if none does.

    The first pods of stable accepted the model, so a pod that rejects it found another one at the source.
    """
    if stable is None:
        return ""
    for pod in observed.revision(stable.revision).pods:
        if pod.exit_code == MODEL_REJECTED and not pod.ready and not pod.terminating:
            why = (
                pod.exit_message or "the model is not the one that this revision started with: read the log of the pod"
            )
            return f"new pods of {stable.version} do not start: {why}"
    return ""


def outdated_image(state: Status, image: str) -> str:
    """Return which image stable runs and how to roll ``image`` out, for messages; empty if it runs that."""
    stable, candidate = state.stable, state.candidate
    if stable is None or stable.snapshot.image == image:
        return ""
    what = f"{stable.version} runs the server image {stable.snapshot.image}, new revisions get {image}"
    if candidate is not None and candidate.snapshot.image == image:
        return f"{what}: {candidate.version} ({candidate.revision}) is being rolled out with it"
    return f"{what}: change spec.serving.refresh to any other text to roll it out by canary"
