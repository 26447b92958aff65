"""Read what the pods of a revision were started with back from its Deployment."""

from __future__ import annotations

import re
from itertools import pairwise, product

from mlmodel_operator.api.codec import DecodeError, decode
from mlmodel_operator.api.revision import revision_id
from mlmodel_operator.api.types import Snapshot
from mlmodel_operator.names import (
    API_KEYS,
    FEEDBACK_KEY,
    FETCHER,
    FILES_OPTION,
    REHEARSAL,
    REQUESTS_OPTION,
    REVISION_LABEL,
    SERVER,
)
from mlmodel_operator.resources.common import Body
from mlmodel_operator.resources.server import DEFAULT_REQUESTS, as_passed

_SHA256 = re.compile("[0-9a-f]{64}")


def read_snapshot(deployment: Body, image: str) -> Snapshot | None:
    """Return the snapshot that the Deployment was built from, for a model without records; None if it is not certain.

    It is certain if its identity is that of the revision: a hash of everything but the image. Anyone who may edit the
    Deployment may have changed that, so the image is ``image``, which the operator uses for new revisions.
    """
    identity = str(deployment["metadata"]["labels"].get(REVISION_LABEL, ""))
    try:
        pod = deployment["spec"]["template"]["spec"]
        container = next(item for item in pod["containers"] if item["name"] == SERVER)
        options = _options(container)
        # The init container has the whole URI, the server that without a token.
        fetchers = [item for item in pod.get("initContainers") or [] if item["name"] == FETCHER]
        model = {
            "uri": _options((*fetchers, container)[0])["--uri"],
            "sha256": options.get("--sha256"),
            "format": options["--format"],
            "trust": options.get("--trust"),
        }
        secrets = {
            item["name"]: {"secretName": item["secret"]["secretName"]} for item in pod["volumes"] if "secret" in item
        }
        data = {
            "image": image,
            "filesSha256": read_files_sha256(deployment),
            "batching": {"maxRows": int(options["--batch-rows"])},
            "apiKeys": secrets.get(API_KEYS),
            "feedbackKey": secrets.get(FEEDBACK_KEY),
        }
        resources = container.get("resources") or {}
        # The Deployment shows defaults too, which are not part of the identity.
        for version, requests in product((options["--model-version"], ""), _without_defaults(resources)):
            snapshot = decode(
                Snapshot,
                {**data, "model": {**model, "version": version}, "resources": {**resources, "requests": requests}},
            )
            if revision_id(snapshot) == identity:
                return snapshot
    except (DecodeError, StopIteration, KeyError, TypeError, ValueError, AttributeError):
        return None
    return None


def read_files_sha256(deployment: Body) -> str:
    """Return the digest that the pods of a Deployment require of the files of a ConfigMap; empty without one."""
    digest = str(dict(pairwise(_server(deployment).get("args") or [])).get(FILES_OPTION, ""))
    return digest if _SHA256.fullmatch(digest) else ""


def has_page(deployment: Body) -> bool:
    """Whether the pods of a Deployment have the page of labels for the operator. Those of an older release do not, and
    read the candidate of a rehearsal from a ConfigMap."""
    volumes = _pod(deployment).get("volumes") or []
    is_annotated = any(volume.get("name") == REHEARSAL and "downwardAPI" in volume for volume in volumes)
    return _has_port(deployment) and (is_annotated or not rehearses(deployment))


def rehearses(deployment: Body) -> bool:
    """Whether the pods of a Deployment keep a sample of their requests and answer copies."""
    requests = dict(pairwise(_server(deployment).get("args") or [])).get(REQUESTS_OPTION)
    return _has_port(deployment) and requests != "0"


def _has_port(deployment: Body) -> bool:
    return any(port.get("name") == REHEARSAL for port in _server(deployment).get("ports") or [])


def _pod(deployment: Body) -> Body:
    return ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}


def _server(deployment: Body) -> Body:
    """Return the container of the server; empty if the Deployment has none."""
    return next((item for item in _pod(deployment).get("containers") or [] if item.get("name") == SERVER), {})


def _options(container: Body) -> dict[str, str]:
    """Return the values of the options with which a container starts."""
    return {name: as_passed(value) for name, value in pairwise(container["args"])}


def _without_defaults(resources: Body) -> list[dict[str, str]]:
    """Return the requests that the spec may have had: with and without those that equal a default."""
    requests = dict(resources.get("requests") or {})
    defaults = [name for name, amount in DEFAULT_REQUESTS.items() if requests.get(name) == amount]
    found = [requests]
    for name in defaults:
        found += [{key: value for key, value in item.items() if key != name} for item in found]
    return found
