"""Settings are complete, or an error says what to set."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mlmodel_operator.settings import Settings, SettingsError

ENV = {"SERVER_IMAGE": "s:1", "ROUTER_IMAGE": "r:1", "POD_NAMESPACE": "system", "POD_NAME": "pod-1"}


def test_a_complete_environment_is_read() -> None:
    assert Settings.read(env=ENV) == Settings("s:1", "r:1", "system", "pod-1", "INFO")
    assert Settings.read(env={**ENV, "LOG_LEVEL": "debug"}).log_level == "DEBUG"


@pytest.mark.parametrize("name", sorted(ENV))
@pytest.mark.parametrize("value", [None, " "])
def test_a_missing_variable_is_named(name: str, value: str | None) -> None:
    env = {key: found for key, found in ENV.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(SettingsError, match=f"{name} is not set: set it to"):
        Settings.read(env=env)


def test_a_wrong_log_level_is_an_error_with_the_valid_ones() -> None:
    with pytest.raises(SettingsError, match="DEBUG, INFO, WARNING, ERROR"):
        Settings.read(env={**ENV, "LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "names"), [("", ()), (" ", ()), ("shop", ("shop",)), (" shop, bank,shop ,", ("shop", "bank"))]
)
def test_namespaces_are_a_list(text: str, names: tuple[str, ...]) -> None:
    assert Settings.read(env={**ENV, "WATCH_NAMESPACES": text}).namespaces == names


@pytest.mark.parametrize("text", [",", "Shop", "a/b", "*", "shop bank", "-a", "a" * 64])
def test_a_wrong_list_of_namespaces_never_means_all(text: str) -> None:
    with pytest.raises(SettingsError, match=r"WATCH_NAMESPACES has .*: set it to names of namespaces with commas"):
        Settings.read(env={**ENV, "WATCH_NAMESPACES": text})


def test_a_switch_is_true_or_false() -> None:
    assert Settings.read(env={**ENV, "NETWORK_POLICIES": "True"}).network_policies
    assert not Settings.read(env={**ENV, "NETWORK_POLICIES": "false"}).network_policies
    with pytest.raises(SettingsError, match="NETWORK_POLICIES is 'yes': set it to true or false"):
        Settings.read(env={**ENV, "NETWORK_POLICIES": "yes"})


def pem() -> tuple[str, str]:
    """Return a private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def test_rights_are_given_on_the_command_line_only(tmp_path: Path) -> None:
    plain = Settings.read(env={**ENV, "ALLOW_UNSAFE_MODELS": "true"})
    assert (plain.allow_unsafe_models, plain.signing_keys) == (False, "")
    assert Settings.read(["--allow-unsafe-models"], ENV).allow_unsafe_models
    (_, first), (_, second) = pem(), pem()
    file = tmp_path / "keys.pem"
    file.write_text(f"of alice: $(rm -r /)\n{first}\r\n# of bob\n{second}")
    signed = Settings.read(["--signing-keys", str(file)], ENV)
    assert signed.signing_keys == first + second, "only the keys"
    for block in signed.signing_keys.split("\n\n"):
        serialization.load_pem_public_key(block.encode())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"cannot be read \(No such file or directory\): give a file with public keys as PEM"),
        ("", "must contain public keys as PEM"),
        ("ssh-ed25519 AAAA", "must contain public keys as PEM"),
        ("\u00e9", "must contain public keys as PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAA$(X)==\n-----END PUBLIC KEY-----\n", "must contain public keys as PEM"),
        (pem()[1] + " " * 40_000, "at most 32 KiB"),
        ("".join(pem()), "contains a private key: give the public key"),
    ],
)
def test_a_wrong_file_of_keys_is_an_error_with_what_to_give(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "keys.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=sentence) as caught:
        Settings.read(["--signing-keys", str(file)], ENV)
    assert str(tmp_path) not in str(caught.value)


def test_trust_without_the_right_is_denied_and_the_option_named() -> None:
    plain = Settings.read(env=ENV)
    assert plain.denial("strict") == ""
    assert "--allow-unsafe-models" in plain.denial("unsafe")
    assert "--signing-keys FILE" in plain.denial("signed")
    unsafe = Settings.read(["--allow-unsafe-models"], ENV)
    assert unsafe.denial("unsafe") == ""
    assert unsafe.denial("signed")
