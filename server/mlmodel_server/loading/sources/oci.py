"""Models in container registries: OCI artefacts as ORAS, ModelPack and KitOps push them, and plain images of files.

The server pulls them over the registry's HTTP API, unless the operator mounts the reference as an image volume. Every
blob is checked against its digest.
"""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import urlencode, urlsplit

import msgspec

from mlmodel_server.errors import RefusedModel, UnreachableSource
from mlmodel_server.loading.archive import is_archive, members, without_common_top
from mlmodel_server.loading.limits import Allowance, check_count, checked_name, is_hidden
from mlmodel_server.loading.sources.pin import in_memory
from mlmodel_server.loading.sources.source import Memory
from mlmodel_server.loading.sources.storage import mounted, setting
from mlmodel_server.loading.sources.transfer import receive, with_retries
from mlmodel_server.loading.sources.web import Download, Web, host
from mlmodel_server.tensors import quoted

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"
FILE_PATH = "org.cncf.model.filepath"
UNPACK = "io.deis.oras.content.unpack"

MAX_DOCUMENT = 4 << 20
"""Maximum bytes of a manifest or of a token, as registries limit them too."""

_HUB, _HUB_API = "docker.io", "registry-1.docker.io"  # the usual name has no API

# Registries whose tokens come from another host, as their documentation says.
_TOKEN_HOSTS = {
    _HUB_API: "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
    "registry.digitalocean.com": "api.digitalocean.com",
}
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d{1,5})?)/(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class _Layer(msgspec.Struct):
    mediaType: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []
    manifests: list[msgspec.Raw] = []


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


def pull(uri: str) -> Memory:
    """Return the files of the artefact ``oci://HOST/NAME[:TAG][@sha256:DIGEST]``."""
    match = _REFERENCE.fullmatch(uri.removeprefix("oci://"))
    if not match or not (match["tag"] or match["digest"]):
        raise RefusedModel(
            "the URI of the model is not valid: give oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST"
        )
    registry = _Registry(match["host"], match["name"])
    manifest = registry.manifest(match["digest"] or match["tag"], match["digest"])
    files = _files(registry, manifest.layers)
    return in_memory(without_common_top(files), "the artefact")


def _files(registry: _Registry, layers: list[_Layer]) -> dict[str, bytes]:
    check_count(len(layers))
    files: dict[str, bytes] = {}
    for layer in layers:
        title = _title(layer)
        packed = _is_packed(layer, title)
        if not packed and (not title or is_hidden(title)):
            continue  # a configuration or a signature, not a file of the model
        name = title or "a layer"
        data = registry.blob(layer, name)
        for file, content in (members(data, name) if packed else {checked_name(title): data}).items():
            if file in files:
                raise RefusedModel(f"two layers of the artefact contain {file}: push it again with only one")
            files[file] = content
        check_count(len(files))
    return files


def _title(layer: _Layer) -> str:
    """Return the name of the file or directory in a layer, or ""."""
    annotations = layer.annotations or {}
    return annotations.get(TITLE, "") or (annotations.get(FILE_PATH, "") if layer.mediaType.endswith(".raw") else "")


def _is_packed(layer: _Layer, title: str) -> bool:
    """Whether a layer is a tar of a directory. Its type may be wrong: ``oras push`` gives every file that of a tar."""
    if (layer.annotations or {}).get(UNPACK) == "true" or layer.mediaType.endswith(".tar+gzip"):
        return True
    return is_archive(title) or (not title and ".tar" in layer.mediaType)


class _Registry:
    """One repository of a registry. The first request has no credentials; the next has what the response requires: a
    token from the authority that the registry names, or a password.

    The password goes only to the registry that ``OCI_REGISTRY`` names, and to its authority. That is the registry
    itself, a known host or ``OCI_TOKEN_HOST``: otherwise any registry could name a host and have it sent what is there.
    """

    def __init__(self, given: str, name: str) -> None:
        """``given`` is the host in the reference."""
        secret = mounted()
        server = _HUB_API if given == _HUB else given
        self._given, self._owner = given, setting("OCI_REGISTRY", secret)
        user, self._password = setting("OCI_USERNAME", secret), setting("OCI_PASSWORD", secret)
        self._has_others = bool(user) and self._owner != given
        self._user = "" if self._has_others else user
        self._authorities = {server, _TOKEN_HOSTS.get(server, server), setting("OCI_TOKEN_HOST", secret) or server}
        self._base, self._name = f"https://{server}/v2/{name}", name
        self._web = Web(self._authorization, self._advice)
        self._allowance = Allowance()

    def manifest(self, reference: str, digest: str | None) -> _Manifest:
        """Return the manifest with this tag or digest; ``digest`` is the required one, if any."""
        body = with_retries("the manifest", lambda: self._document(f"{self._base}/manifests/{reference}"))
        if digest and f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            raise RefusedModel("the registry returned another manifest than the one with this digest: push it again")
        try:
            manifest = msgspec.json.decode(body, type=_Manifest)
        except msgspec.DecodeError:
            raise RefusedModel(
                "the reference is not an OCI artefact: push the model with oras, or as an image"
            ) from None
        if manifest.manifests:
            raise RefusedModel(
                "the reference is an index of several manifests: give the digest of the manifest with the model"
            )
        return manifest

    def blob(self, layer: _Layer, name: str) -> bytes:
        """Download and check the bytes of a layer."""
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", layer.digest):
            raise RefusedModel(f"{name} has no sha256 digest in the manifest: push the model again")
        self._allowance.check(name, layer.size)
        data = receive(name, Download(self._web, f"{self._base}/blobs/{layer.digest}"), self._allowance)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != layer.digest:
            raise RefusedModel(f"{name} does not have its digest in the manifest: push the model again")
        return data

    def _document(self, url: str, web: Web | None = None) -> bytes:
        with (web or self._web).open(url, {"Accept": MANIFEST_TYPE}) as response:
            body: bytes = response.read(MAX_DOCUMENT + 1)
        if len(body) > MAX_DOCUMENT:
            raise RefusedModel("the manifest is larger than 4 MiB: give the reference of a model")
        return body

    def _authorization(self, challenge: str) -> str:
        kind, _, rest = challenge.partition(" ")
        basic = "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        if kind.lower() == "basic" and self._user:
            return basic
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if kind.lower() != "bearer" or not realm.startswith("https://"):
            raise UnreachableSource(f"{host(self._base)} requires credentials: {self._advice(401)}")
        if host(realm) not in self._authorities or "@" in urlsplit(realm).netloc:
            raise UnreachableSource(
                f"{host(self._base)} requires a token of {quoted(host(realm))}, which is not known as its authority: "
                "if it is, set OCI_TOKEN_HOST to that host"
            )
        query = {"scope": fields.get("scope", f"repository:{self._name}:pull")}
        if "service" in fields:
            query["service"] = fields["service"]
        web = Web(advice=self._advice, authorization=basic if self._user else "")
        separator = "&" if "?" in realm else "?"
        body = self._document(f"{realm}{separator}{urlencode(query)}", web)
        try:
            response = msgspec.json.decode(body, type=_Token)
        except msgspec.DecodeError:
            response = _Token()
        token = response.token or response.access_token
        if not re.fullmatch(r"[!-~]+", token):
            raise UnreachableSource(f"{host(realm)} returned no token: {self._advice(401)}")
        return f"Bearer {token}"

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            if self._has_others:
                return f"OCI_USERNAME and OCI_PASSWORD are sent only to OCI_REGISTRY: set it to {self._given}"
            if self._user:
                return "check OCI_USERNAME and OCI_PASSWORD"
            return f"set OCI_USERNAME and OCI_PASSWORD, and OCI_REGISTRY to {self._given}"
        return "check the name and the tag"
