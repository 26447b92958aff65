"""Signatures of models: OpenSSF Model Signing bundles in key mode, made and verified with ``cryptography`` alone.

A bundle is a sigstore bundle (JSON). It contains a DSSE envelope with an in-toto statement, which lists every file with
its SHA-256. The subject of the statement has the name of the model: a signature of one model is not valid for another.
It works with ``model_signing sign key`` and ``verify key`` of the package ``model-signing`` 1.1, whose
formats are described at https://github.com/sigstore/model-transparency.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlmodel_server.errors import SIGN, RefusedModel, UsageError, not_installed
from mlmodel_server.loading.limits import is_hidden
from mlmodel_server.manifest import sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

SIGNATURE = "model.sig"
"""The name of the bundle, in the directory that it signs. It does not sign itself."""

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_WHOLE = "."  # the name of the file in the signature of a single file
_RIGHT_KEY = "an ECDSA key on P-256, P-384 or P-521 in PEM, as openssl ecparam -name prime256v1 -genkey makes it"


class _PublicKey(msgspec.Struct):
    hint: str = ""


class _Material(msgspec.Struct, rename="camel"):
    public_key: _PublicKey | None = None


class _Signature(msgspec.Struct):
    sig: bytes  # msgspec decodes the base64


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: list[_Signature]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class _Digests(msgspec.Struct):
    sha256: str


class _Subject(msgspec.Struct):
    digest: _Digests
    name: str = ""


class _Serialization(msgspec.Struct):
    method: str


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    predicate_type: str
    subject: list[_Subject]
    predicate: msgspec.Raw


_END = b"-----END PUBLIC KEY-----"


def keys_of(pem: bytes) -> list[bytes]:
    """Return each public key of a file with any number of them, as PEM."""
    return [key.lstrip() + _END + b"\n" for key in pem.split(_END) if b"-----BEGIN" in key]


def verify(files: Mapping[str, bytes | str], bundle: bytes, keys: Sequence[bytes], name: str) -> str:
    """Return the fingerprint of the key among ``keys`` (public, PEM) that signed exactly these files as ``name``.

    ``files`` are all files of the model but the bundle: their bytes, or their SHA-256 in hex. ``name`` is the name that
    the model is served under. Hidden files in the signature are ignored, because no source returns them. Raise
    :class:`RefusedModel` if the signature has another key, name or form, or if a file was changed, added or removed;
    :class:`UsageError` if a key is not a key.
    """
    _require_cryptography()
    trusted = {fingerprint(key): key for key in map(_public_key, keys)}
    signed = _parsed(bundle, _Bundle, f"{SIGNATURE} is not an OpenSSF model signature")
    if signed.media_type != BUNDLE_TYPE:
        raise _refused(f"{SIGNATURE} has another media type than {BUNDLE_TYPE}")
    envelope = signed.dsse_envelope
    if signed.verification_material.public_key is None:
        raise _refused(f"{SIGNATURE} was made with a certificate or an identity, but this server verifies keys")
    hint: str = signed.verification_material.public_key.hint
    if hint not in trusted:
        signer = f"the key {hint[:16]}" if re.fullmatch("[0-9a-f]{64}", hint) else "a key without a fingerprint"
        raise RefusedModel(
            f"the model was signed with {signer}, which is not one of the {len(trusted)} trusted keys: "
            f"sign it with one of them, or add that key to --signing-keys (in a cluster, an administrator does)"
        )
    if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise _refused(f"{SIGNATURE} does not contain exactly one signed in-toto statement")
    _check_signature(trusted[hint], envelope)
    signed_name, resources = _signed(envelope.payload)
    _check_name(signed_name, name)
    _compare(files, resources)
    return hint


def sign(files: Mapping[str, bytes], key: bytes, name: str) -> bytes:
    """Return the bundle for a model that is served as ``name``, signed with the private key ``key`` (PEM, without
    password).

    Raise :class:`UsageError` if that is not a private key of the right kind.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise UsageError(f"the key is not a private key without a password: give {_RIGHT_KEY}")
    public = private.public_key()
    algorithm = _algorithm(public)
    digests = {file: sha256(data) for file, data in sorted(files.items(), key=lambda item: item[0].split("/"))}
    payload = msgspec.json.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": _root(digests.values())}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURE],
                },
                "resources": [
                    {"name": file, "algorithm": "sha256", "digest": digest} for file, digest in digests.items()
                ],
            },
        }
    )
    signature = private.sign(_authenticated(payload), algorithm)
    return msgspec.json.encode(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": fingerprint(public)}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": payload,
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": signature, "keyid": ""}],
            },
        }
    )


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the SHA-256 (hex) of the PEM, which is a bundle's hint: ``openssl pkey -pubin -in KEY | sha256sum``."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _public_key(pem: bytes) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(f"a trusted key is not a public key: give the public key of {_RIGHT_KEY}")
    _algorithm(key)
    return key


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    by_curve: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
        "secp256r1": hashes.SHA256,
        "secp384r1": hashes.SHA384,
        "secp521r1": hashes.SHA512,
    }
    if key.curve.name not in by_curve:
        raise UsageError(f"a key on the curve {key.curve.name} cannot sign models: use {_RIGHT_KEY}")
    return ec.ECDSA(by_curve[key.curve.name]())


def _check_signature(key: EllipticCurvePublicKey, envelope: _Envelope) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(envelope.signatures[0].sig, _authenticated(envelope.payload), _algorithm(key))
    except InvalidSignature:
        raise _refused(f"{SIGNATURE} has an invalid signature") from None


def _authenticated(payload: bytes) -> bytes:
    """Return the bytes that DSSE signs: the payload and its type, both with their lengths."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _signed(payload: bytes) -> tuple[str, dict[str, str]]:
    """Return the name of the model in the signed statement, and the digests, by file."""
    statement = _parsed(payload, _Statement, f"{SIGNATURE} signs something other than an in-toto statement")
    if statement.type != STATEMENT_TYPE or statement.predicate_type != PREDICATE_TYPE:
        raise _refused(f"{SIGNATURE} signs a statement of another type than {PREDICATE_TYPE}")
    predicate = _parsed(bytes(statement.predicate), _Predicate, f"{SIGNATURE} lists no files")
    if predicate.serialization.method != "files":
        raise _refused(f"{SIGNATURE} lists shards instead of files")
    resources = {resource.name: resource.digest for resource in predicate.resources}
    if any(resource.algorithm != "sha256" for resource in predicate.resources):
        raise _refused(f"{SIGNATURE} has another digest than sha256")
    if len(resources) != len(predicate.resources):
        raise _refused(f"{SIGNATURE} lists a file twice")
    if [subject.digest.sha256 for subject in statement.subject] != [_root(resources.values())]:
        raise _refused(f"{SIGNATURE} has a digest of all files that does not fit its list of files")
    return statement.subject[0].name, resources


def _check_name(signed: str, name: str) -> None:
    """Raise :class:`RefusedModel` unless the signature is that of the model ``name``: the files of one model may not
    replace those of another that the same key has signed."""
    if signed == name and name:
        return
    what = f"as {signed[:128]!r}" if signed else "without a name"
    raise RefusedModel(
        f"the model was signed {what}, but is served as {name!r}: type {SIGN.replace('NAME', name or 'NAME')}"
    )


def _root(digests: Any) -> str:
    """Return the digest of all digests, in their order."""
    try:
        return sha256(b"".join(map(bytes.fromhex, digests)))
    except ValueError:
        raise _refused(f"{SIGNATURE} has an invalid digest") from None


def _compare(files: Mapping[str, bytes | str], resources: Mapping[str, str]) -> None:
    actual = {name: data if isinstance(data, str) else hashlib.sha256(data).hexdigest() for name, data in files.items()}
    if set(resources) == {_WHOLE} and len(actual) == 1:
        resources = dict.fromkeys(actual, resources[_WHOLE])
    expected = {name: digest for name, digest in resources.items() if not is_hidden(name)}
    differing = {
        "changed": [name for name in expected if name in actual and actual[name].lower() != expected[name].lower()],
        "missing": [name for name in expected if name not in actual],
        "not signed": [name for name in actual if name not in expected],
    }
    for what, names in differing.items():
        if names:
            raise RefusedModel(
                f"the signature does not match the files: {', '.join(sorted(names)[:5])} {what}: sign the model again"
            )


def _parsed(data: bytes, type: type[msgspec.Struct], problem: str) -> Any:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, RecursionError):
        raise _refused(problem) from None


def _refused(problem: str) -> RefusedModel:
    return RefusedModel(f"{problem}: sign the model with {SIGN}, or with model_signing sign key")


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise RefusedModel(
            f"{not_installed('a signature', 'cryptography', 'signing')}; in the cluster, use a server image with it"
        ) from None
