"""The supported object stores, and how obstore is configured for each.

Credentials come from the mounted Secret, from the usual environment variables, or from the identity that the cloud
gives the pod. obstore reads the last two, and private authorities from ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlmodel_server.errors import RefusedModel, UnreachableSource, not_installed
from mlmodel_server.loading.sources.storage import mounted, setting

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIMEOUT = timedelta(seconds=60)
"""Of one request, for at most ``BLOCK`` bytes: a connection slower than 140 kB/s counts as broken."""

CONNECT_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True)
class Kind:
    """What differs between the stores: obstore's class, and the texts for messages."""

    store: str
    label: str
    prefix: str
    endpoints: tuple[str, ...]
    credentials: str
    copy: str


KINDS = {
    "s3": Kind(
        "S3Store",
        "S3",
        "AWS_",
        ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
        "aws s3 cp --recursive model {uri}",
    ),
    "gs": Kind(
        "GCSStore",
        "Google Cloud Storage",
        "GOOGLE_",
        ("GOOGLE_BASE_URL",),
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "gcloud storage cp --recursive model {uri}",
    ),
    "az": Kind(
        "AzureStore",
        "Azure Blob Storage",
        "AZURE_",
        ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
        "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        "az storage blob upload-batch --source model --destination {bucket} --destination-path {key}",
    ),
}


def store_of(kind: Kind, bucket: str) -> tuple[ObjectStore, str]:
    """Return obstore's store for the bucket, and its name for messages.

    Raise :class:`RefusedModel` or :class:`UnreachableSource` with the variable to set.
    """
    try:
        from obstore import exceptions, store
    except ImportError:
        raise RefusedModel(
            f"{not_installed(kind.label, 'obstore', 'storage')}; in the cluster, use a server image with it"
        ) from None
    secret = mounted()
    endpoint = next(filter(None, (setting(name, secret) for name in kind.endpoints)), "")
    plain = endpoint.startswith("http://")
    switch = f"{kind.prefix}ALLOW_HTTP"
    if plain and not _is_loopback(endpoint) and setting(switch, secret).lower() not in ("1", "true"):
        raise RefusedModel(
            f"{kind.endpoints[0]} is an address without TLS: use https://, or set {switch}=true on a trusted network"
        )
    options: dict[str, Any] = {"allow_http": plain, "timeout": TIMEOUT, "connect_timeout": CONNECT_TIMEOUT}
    config = {name: value for name, value in secret.items() if name.startswith(kind.prefix) and name != switch}
    retries = {"max_retries": 0}  # Retries counts and waits for all sources alike
    try:
        opened = getattr(store, kind.store)(bucket, config=config, client_options=options, retry_config=retries)
    except exceptions.UnknownConfigurationKeyError as error:
        match = re.search(r"'(\w+)'", str(error))
        raise RefusedModel(
            f"the storage credentials have {match[1].upper() if match else 'a key'}, which is not a variable of "
            f"{kind.label}: use {kind.credentials}"
        ) from None
    except (exceptions.BaseError, ValueError) as error:
        raise UnreachableSource(
            f"{kind.label} is not configured correctly ({type(error).__name__}): check {kind.credentials}"
        ) from None
    return opened, urlsplit(endpoint).netloc.rpartition("@")[2] or kind.label


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    return name in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", name) is not None
