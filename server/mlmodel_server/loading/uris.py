"""URIs of models: which are fetched over a network, and which are not valid. Imports no library."""

from __future__ import annotations

import re

from mlmodel_server.errors import RefusedModel

MOUNTED = ("configmap", "pvc")
REMOTE = ("https", "s3", "gs", "az", "oci")

MAX_URI = 1_024


def is_fetched(uri: str, *, mounted: bool) -> bool:
    """Whether the model comes over a network, which may require credentials; ``mounted`` is whether it has a path, as
    an image that the node mounts."""
    scheme = uri.partition("://")[0]
    return scheme in REMOTE and not (mounted and scheme == "oci")


def without_token(uri: str) -> str:
    """Return the URI without its query, which may be a token: no process needs it once the model is fetched."""
    return uri.partition("?")[0] if uri.startswith("https://") else uri


def checked_uri(uri: str) -> str:
    """Return the URI; raise :class:`RefusedModel` unless it is up to :data:`MAX_URI` printable ASCII characters without
    user information and without ``$(``, which Kubernetes would replace by the value of a variable."""
    authority = re.split("[/?#]", uri.partition("://")[2], maxsplit=1)[0]
    if not re.fullmatch(f"[!-~]{{1,{MAX_URI}}}", uri) or "$(" in uri or "@" in authority:
        raise RefusedModel(
            f"the URI of the model is not valid: give up to {MAX_URI:,} printable ASCII characters, without user name, "
            f"password or $("
        )
    return uri
