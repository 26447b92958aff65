"""Signatures: what was signed is accepted, and any change of files, key or form is rejected.
``tests/integration/server/test_signing.py`` tests the interoperability with ``model-signing``."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mlmodel_server.errors import RefusedModel, UsageError
from mlmodel_server.loading import signing
from mlmodel_server.loading.signing import sign, verify

FILES = {"mlmodel.json": b"{}", "variables/weights.bin": b"\x00\x01", "variables-2": b""}


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@cache
def key(curve: type[ec.EllipticCurve] = ec.SECP256R1, number: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_signed_files_are_accepted_and_the_key_is_returned(curve: type[ec.EllipticCurve]) -> None:
    bundle = sign(FILES, pem(key(curve)), "model")
    fingerprint = verify(FILES, bundle, [public(key(number=1)), public(key(curve))], "model")
    assert fingerprint == hashlib.sha256(public(key(curve))).hexdigest()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert verify(digests, bundle, [public(key(curve))], "model") == fingerprint


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "mlmodel.json": b"[]"}, r"mlmodel\.json changed"),
        ({name: data for name, data in FILES.items() if name != "variables-2"}, "variables-2 missing"),
        ({**FILES, "extra.py": b""}, r"extra\.py not signed"),
        ({**FILES, "mlmodel.json": FILES["variables-2"], "variables-2": FILES["mlmodel.json"]}, "changed"),
        ({}, "missing"),
    ],
)
def test_a_changed_missing_or_added_file_is_rejected_by_name(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(RefusedModel, match=f"the signature does not match the files: .*{words}: sign the model again"):
        verify(files, sign(FILES, pem(key()), "model"), [public(key())], "model")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("signed", "served", "words"),
    [
        ("fraud", "iris", "was signed as 'fraud', but is served as 'iris': .* --sign KEY --name iris$"),
        ("fraud", "Fraud", "was signed as 'fraud', but is served as 'Fraud'"),
        ("fraud-eu", "fraud", "was signed as 'fraud-eu'"),
        ("", "iris", "was signed without a name, but is served as 'iris'"),
        ("", "", "was signed without a name"),
    ],
)
def test_a_signature_of_one_model_is_not_valid_for_another(signed: str, served: str, words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        verify(FILES, sign(FILES, pem(key()), signed), [public(key())], served)


@pytest.mark.attack(held=True)
def test_a_statement_without_a_name_is_that_of_no_model() -> None:
    bundle = resigned(lambda it: it["subject"][0].pop("name"))
    with pytest.raises(RefusedModel, match="was signed without a name, but is served as 'model'"):
        verify(FILES, bundle, [public(key())], "model")


def test_the_name_is_signed() -> None:
    with pytest.raises(RefusedModel, match="has an invalid signature"):
        verify(FILES, forged(other_payload), [public(key())], "other")


def test_hidden_files_in_the_signature_are_ignored_and_others_are_not() -> None:
    bundle = sign({**FILES, ".cache/index": b"1"}, pem(key()), "model")
    assert verify(FILES, bundle, [public(key())], "model")
    with pytest.raises(RefusedModel, match=r"\.cache/other not signed"):
        verify({**FILES, ".cache/other": b"2"}, bundle, [public(key())], "model")


def test_a_signature_of_a_single_file_is_valid_under_any_name() -> None:
    bundle = sign({".": b"weights"}, pem(key()), "model")
    assert verify({"renamed.joblib": b"weights"}, bundle, [public(key())], "model")
    for files in ({"model.joblib": b"other"}, {"model.joblib": b"weights", "more": b""}):
        with pytest.raises(RefusedModel):
            verify(files, bundle, [public(key())], "model")


@pytest.mark.attack(held=True)
def test_a_key_that_is_not_trusted_is_rejected() -> None:
    bundle = sign(FILES, pem(key()), "model")
    with pytest.raises(RefusedModel, match=r"signed with the key \w{16}, which is not one of the 1 trusted keys"):
        verify(FILES, bundle, [public(key(number=1))], "model")
    with pytest.raises(RefusedModel, match="not one of the 0 trusted keys"):
        verify(FILES, bundle, [], "model")


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a bundle that was changed after it was signed."""
    bundle = json.loads(sign(FILES, pem(key()), "model"))
    change(bundle)
    return json.dumps(bundle).encode()


def resigned(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a bundle whose statement was changed and then signed with the trusted key."""
    bundle = json.loads(sign(FILES, pem(key()), "model"))
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    signed = key().sign(signing._authenticated(payload), signing._algorithm(key().public_key()))
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(signed).decode()
    return json.dumps(bundle).encode()


def other_payload(bundle: dict[str, Any]) -> None:
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b'"model"', b'"other"')).decode()


def test_both_helpers_make_valid_bundles_without_a_change() -> None:
    for bundle in (forged(lambda _: None), resigned(lambda _: None)):
        assert verify(FILES, bundle, [public(key())], "model")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_payload, "has an invalid signature"),
        (
            lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig="MEUCIQ=="),
            "is not an OpenSSF|has an invalid signature",
        ),
        (lambda bundle: bundle["dsseEnvelope"]["signatures"].append({"sig": ""}), "one signed in-toto statement"),
        (lambda bundle: bundle["dsseEnvelope"]["signatures"].clear(), "one signed in-toto statement"),
        (lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"), "one signed in-toto statement"),
        (lambda bundle: bundle.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"), "media type"),
        (lambda bundle: bundle.update(verificationMaterial={"certificate": {"rawBytes": "AA=="}}), "a certificate"),
        (lambda bundle: bundle["verificationMaterial"]["publicKey"].clear(), "a key without a fingerprint"),
        (lambda bundle: bundle.pop("dsseEnvelope"), "is not an OpenSSF model signature"),
    ],
)
def test_a_bundle_of_another_form_is_rejected(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(RefusedModel, match=words):
        verify(FILES, forged(change), [public(key())], "model")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda it: it.update(predicateType="https://slsa.dev/provenance/v1"),
            r"of another type than https://model_signing/",
        ),
        (lambda it: it.update(predicateType="https://model_signing/Digests/v0.1"), "a statement of another type"),
        (lambda it: it.update(_type="https://in-toto.io/Statement/v0.1"), "a statement of another type"),
        (lambda it: it["predicate"]["serialization"].update(method="shards"), "lists shards instead of files"),
        (lambda it: it["predicate"]["resources"][0].update(algorithm="blake2b"), "another digest than sha256"),
        (lambda it: it["predicate"]["resources"].append(it["predicate"]["resources"][0]), "a file twice"),
        (lambda it: it["predicate"]["resources"].pop(), "does not fit its list of files"),
        (lambda it: it["subject"].append(it["subject"][0]), "does not fit its list of files"),
        (lambda it: it["predicate"]["resources"][0].update(digest="xyz"), "has an invalid digest"),
        (lambda it: it.update(predicate=[]), "lists no files"),
        (lambda it: it.clear(), "something other than an in-toto statement"),
    ],
)
def test_a_statement_of_another_form_is_rejected_although_it_is_signed(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    with pytest.raises(RefusedModel, match=words):
        verify(FILES, resigned(change), [public(key())], "model")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"mediaType": 1}'])
def test_data_that_is_not_a_bundle_is_rejected(data: bytes) -> None:
    with pytest.raises(RefusedModel, match=r"model\.sig is not an OpenSSF model signature: sign the model with"):
        verify(FILES, data, [public(key())], "model")


@pytest.mark.attack(held=True)
@pytest.mark.parametrize(
    "wrong", [ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 1024), key(ec.SECP256K1)]
)
def test_other_algorithms_neither_sign_nor_verify(wrong: Any) -> None:
    with pytest.raises(UsageError, match="ECDSA key on P-256, P-384 or P-521"):
        sign(FILES, pem(wrong), "model")
    with pytest.raises(UsageError, match="ECDSA key on P-256, P-384 or P-521"):
        verify(FILES, sign(FILES, pem(key()), "model"), [public(wrong)], "model")


def test_data_that_is_not_a_key_is_reported() -> None:
    locked = key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush"))
    for wrong in (b"", b"not a key", public(key()), locked):
        with pytest.raises(UsageError, match="the key is not a private key without a password"):
            sign(FILES, wrong, "model")
    for wrong in (b"", pem(key())):
        with pytest.raises(UsageError, match="a trusted key is not a public key"):
            verify(FILES, sign(FILES, pem(key()), "model"), [wrong], "model")
