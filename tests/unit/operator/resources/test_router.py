"""The children of the router; tests/integration/router tests its behaviour with a real HAProxy."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hack.router_files import is_current
from hack.router_files import packed as pack
from mlmodel_operator.api.schema import Quantity
from mlmodel_operator.api.types import (
    ApiKeys,
    ModelSource,
    Revision,
    RouterResources,
    RouterSpec,
    Snapshot,
    Tls,
    Traffic,
)
from mlmodel_operator.resources import (
    checked_keys,
    router,
    router_config_hash,
    router_deployment,
    router_disruption_budget,
    router_files,
    router_routes,
    router_service,
    service,
)
from mlmodel_operator.rollout.routes import Routes
from mlmodel_operator.rollout.sides import Sides
from tests.unit.operator.resources.cast import OWNER, Body, container, pod, restricted

SELECTOR = {"mlmodel.dev/model": "fraud", "mlmodel.dev/component": "router"}
ROUTES = Routes({"a": "10.0.0.1"}, stable="a")


def deployed(replicas: int = 1, config_hash: str = "0123", timeout_seconds: int = 60) -> Body:
    traffic = Traffic(RouterSpec(replicas), timeout_seconds)
    return router_deployment(OWNER, traffic, "haproxy:3.2", config_hash)


def test_names_and_owner() -> None:
    children = [
        deployed(),
        router_service(OWNER),
        router_routes(OWNER, ROUTES),
        router_disruption_budget(OWNER),
    ]
    names = [(child["kind"], child["metadata"]["name"]) for child in children]
    assert names == [
        ("Deployment", "fraud-router"),
        ("Service", "fraud"),
        ("ConfigMap", "fraud-routes"),
        ("PodDisruptionBudget", "fraud-router"),
    ]
    for child in children:
        assert child["metadata"]["ownerReferences"][0]["uid"] == "7f3e"
        assert child["metadata"]["labels"]["mlmodel.dev/component"] == "router"
        assert "mlmodel.dev/revision" not in child["metadata"]["labels"]


def test_the_service_is_the_models_address_and_selects_only_the_routers() -> None:
    spec = router_service(OWNER)["spec"]
    assert spec["ports"] == [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "grpc", "port": 9000, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
    ]
    assert spec["selector"] == SELECTOR == deployed()["spec"]["selector"]["matchLabels"]
    assert deployed()["spec"]["template"]["metadata"]["labels"].items() >= SELECTOR.items()
    assert router_disruption_budget(OWNER)["spec"]["selector"]["matchLabels"] == SELECTOR


@pytest.mark.attack(held=True)
def test_the_pod_is_restricted() -> None:
    assert restricted(pod(deployed())) == []
    assert pod(deployed())["automountServiceAccountToken"] is False


def test_a_changed_configuration_rolls_the_pods_and_nothing_else_does() -> None:
    assert deployed(config_hash="1") != deployed(config_hash="2")
    assert deployed(replicas=1)["spec"]["template"] == deployed(replicas=3)["spec"]["template"]
    assert deployed(replicas=3)["spec"]["replicas"] == 3


def encrypted(allow_plain_text: bool = False, keys: str = "") -> Body:
    traffic = Traffic(tls=Tls("fraud-tls", allow_plain_text))
    return router_deployment(OWNER, traffic, "haproxy:3.2", "0123", keys)


def test_the_certificate_is_mounted_read_only_and_nothing_else_of_its_secret() -> None:
    (volume,) = (volume for volume in pod(encrypted())["volumes"] if volume["name"] == "tls")
    items = [{"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}]
    assert volume["secret"] == {"secretName": "fraud-tls", "items": items}, "not optional: no pod starts without it"
    assert {"name": "tls", "mountPath": "/etc/mlmodel/tls", "readOnly": True} in container(encrypted())["volumeMounts"]
    assert restricted(pod(encrypted(keys="fraud-keys"))) == []


def test_plain_text_is_allowed_only_if_the_spec_says_so() -> None:
    assert {"name": "MLMODEL_TLS", "value": "only"} in container(encrypted())["env"]
    assert {"name": "MLMODEL_TLS", "value": "both"} in container(encrypted(allow_plain_text=True))["env"]


def test_tls_has_ports_of_its_own() -> None:
    """A pod of before has no port of this name, so the Service sends it no connection for it."""
    own = [port["name"] for port in container(deployed())["ports"]]
    assert [port["name"] for port in container(encrypted())["ports"]] == [*own, "https", "grpcs"]
    ports = router_service(OWNER, Tls("fraud-tls"))["spec"]["ports"]
    assert ports[:2] == router_service(OWNER)["spec"]["ports"]
    assert [(port["name"], port["port"], port["targetPort"]) for port in ports[2:]] == [
        ("https", 443, "https"),
        ("grpcs", 9443, "grpcs"),
    ]


def test_the_api_keys_are_mounted_and_nothing_else_of_their_secret() -> None:
    deployment = router_deployment(OWNER, Traffic(), "haproxy:3.2", "0123", "fraud-keys")
    (volume,) = (volume for volume in pod(deployment)["volumes"] if volume["name"] == "keys")
    assert volume["secret"] == {"secretName": "fraud-keys", "items": [{"key": "keys", "path": "keys"}]}
    assert {"name": "MLMODEL_KEYS", "value": "/etc/mlmodel/keys/keys"} in container(deployment)["env"]


def test_without_tls_and_keys_the_template_has_nothing_of_them() -> None:
    files = next(item for item in container(deployed())["env"] if item["name"] == "MLMODEL_ROUTER_FILES")["value"]
    assert "tls" not in str(deployed()).replace(files, "").lower()
    assert [volume["name"] for volume in pod(deployed())["volumes"]] == ["config", "routes", "assigned"]
    assert [item["name"] for item in container(deployed())["env"]] == [
        "MLMODEL_TIMEOUT_SECONDS",
        "MLMODEL_ROUTER_FILES",
    ]


def revision(secret: str) -> Revision:
    keys = ApiKeys(secret) if secret else None
    return Revision("r", Snapshot(ModelSource("builtin://iris"), "image", api_keys=keys))


@pytest.mark.parametrize(
    ("secrets", "checked"),
    [
        (("a",), "a"),
        (("a", "a"), "a"),
        (("",), ""),
        ((), ""),
        (("", "a"), ""),
        (("a", ""), ""),
        (("a", "b"), ""),
    ],
)
def test_the_router_checks_keys_only_if_all_pods_have_the_same(secrets: tuple[str, ...], checked: str) -> None:
    """While a rollout changes the Secret, a key that one side accepts must pass."""
    assert checked_keys(revision(secret) for secret in secrets) == checked


def resources(**fields: Any) -> Body:
    """Return the resources of the container for ``spec.traffic.router.resources``."""
    traffic = Traffic(RouterSpec(resources=RouterResources(**fields)))
    deployment = router_deployment(OWNER, traffic, "haproxy:3.2", "0")
    found: Body = container(deployment)["resources"]
    return found


def test_the_resources_are_those_of_the_spec_with_defaults_that_fit() -> None:
    assert container(deployed())["resources"] == resources()
    assert resources() == {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}}
    assert resources(limits={"cpu": "1", "memory": "64Mi"}) == {"limits": {"cpu": "1", "memory": "64Mi"}}
    assert resources(limits={"cpu": "1"}) == {
        "requests": {"memory": "32Mi"},
        "limits": {"cpu": "1", "memory": "512Mi"},
    }
    # The default limit could be below this request.
    assert resources(requests={"memory": "1Gi"}) == {"requests": {"cpu": "50m", "memory": "1Gi"}}


def test_changed_resources_replace_the_pods() -> None:
    traffic = Traffic(RouterSpec(resources=RouterResources(requests={"cpu": Quantity("1")})))
    changed = router_deployment(OWNER, traffic, "haproxy:3.2", "0123")
    assert changed["spec"]["template"] != deployed()["spec"]["template"]


def test_the_pod_template_has_the_files_and_a_shell_unpacks_them(tmp_path: Path) -> None:
    """Rights on ConfigMaps are not enough to change what a router runs, and it starts without any."""
    (variable,) = (item for item in container(deployed())["env"] if item["name"] == "MLMODEL_ROUTER_FILES")
    command = container(deployed())["command"]
    assert command[:2] == ["sh", "-c"]
    unpack = command[2].replace("/etc/mlmodel/haproxy", str(tmp_path)).replace("exec sh", "echo")
    done = subprocess.run(
        ["sh", "-c", unpack],
        env={"PATH": os.environ["PATH"], variable["name"]: variable["value"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{tmp_path}/router.sh"
    assert {path.name for path in tmp_path.iterdir()} == set(router_files())
    for name, text in router_files().items():
        lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", "--"))]
        assert (tmp_path / name).read_text() == "".join(f"{line}\n" for line in lines)
    assert len(variable["value"]) < 30_000, "each Deployment, ReplicaSet, pod and record has it"
    assert not any("router-config" in str(volume) for volume in pod(deployed())["volumes"])


def test_the_hash_of_the_configuration_is_short() -> None:
    assert re.fullmatch("[0-9a-f]{16}", router_config_hash())


def test_the_routes_are_a_separate_file() -> None:
    assert router_routes(OWNER, ROUTES)["data"] == {"routes": ROUTES.text(), "rehearsal": ""}
    named = router_routes(OWNER, ROUTES, "candidate x y none\n")["data"]
    assert named == {"routes": ROUTES.text(), "rehearsal": "candidate x y none\n"}


def test_what_a_header_assigns_is_a_file_beside_them_which_a_router_of_the_release_before_does_not_read() -> None:
    sides = Sides("x-user-id", "5e" * 32, "x-group", ("beta", "staff"))
    both = replace(ROUTES, sides=sides)
    text = f"id {both.id()}\nsticky x-user-id {'5e' * 32}\nmatch x-group beta staff\n"
    assert router_routes(OWNER, both)["data"] == {"routes": both.text(), "sides": text, "rehearsal": ""}
    # The same routes, with the identity of both files.
    assert both.text().split("\n")[1:] == ROUTES.text().split("\n")[1:]
    assert both.id() != ROUTES.id()


def test_the_pod_and_haproxys_configuration_agree() -> None:
    """Both sides declare ports, paths and times."""
    config = router_files()["haproxy.cfg"]
    router, spec = container(deployed()), pod(deployed())
    ports = {port["name"]: port["containerPort"] for port in router["ports"]}
    assert f"bind :{ports.pop('http')}\n" in config
    assert f"bind :{ports.pop('grpc')} proto h2\n" in config
    assert f"presetenv MLMODEL_STATUS_PORT {ports['status']}\n" in config
    assert 'bind ":${MLMODEL_STATUS_PORT}"\n' in config
    script = router_files()["router.sh"]
    for number, port in enumerate(ports.values(), 1):
        assert f"supervise {number} {port} &\n" in script
    mounts = {mount["name"]: mount["mountPath"] for mount in router["volumeMounts"]}
    assert router["command"][-1].endswith(f"exec sh {mounts['config']}/router.sh")
    assert f"presetenv MLMODEL_ROUTES {mounts['routes']}/routes\n" in config
    assert f"presetenv MLMODEL_ASSIGNED {mounts['assigned']}/routes\n" in config
    grpc = service(OWNER, "5f1c2e9a")["spec"]["ports"][1]
    assert f"presetenv MLMODEL_GRPC_PORT {grpc['port']}\n" in config
    for probe in ("readinessProbe", "livenessProbe"):
        assert router[probe]["httpGet"]["port"] == "status"
        assert f"{{ path {router[probe]['httpGet']['path']} }}" in config
    assert spec["terminationGracePeriodSeconds"] > router["lifecycle"]["preStop"]["sleep"]["seconds"] + 60


@pytest.mark.parametrize("seconds", [1, 60, 600])
def test_the_time_limit_of_the_model_is_that_of_haproxy_and_its_requests_end_before_the_pod(seconds: int) -> None:
    deployment = deployed(timeout_seconds=seconds)
    config = router_files()["haproxy.cfg"]
    assert {"name": "MLMODEL_TIMEOUT_SECONDS", "value": str(seconds)} in container(deployment)["env"]
    for directive in ("timeout server", "hard-stop-after"):
        assert f'{directive} "${{MLMODEL_TIMEOUT_SECONDS}}s"' in config
    pause = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
    tries = re.search(r'"\$tries" -lt (\d+)', router_files()["router.sh"])
    wait = re.search(r"sleep (0\.\d+)", router_files()["router.sh"])
    assert tries is not None
    assert wait is not None
    # HAProxy ends requests after `hard-stop-after`, and itself a second later.
    last = pause + int(tries[1]) * float(wait[1]) + seconds + 1
    assert pod(deployment)["terminationGracePeriodSeconds"] >= last + 3


@pytest.mark.parametrize(("tls", "kib"), [(False, 33), (True, 67)], ids=["", "TLS"])
def test_the_memory_of_a_router_holds_all_connections_while_a_body_arrives_on_each(*, tls: bool, kib: int) -> None:
    """``kib`` for each, and 26 MiB for each process, as `python -m bench.router_connections` measures."""
    config = router_files()["haproxy.cfg"]
    found = re.findall(r"\.if defined\(MLMODEL_TLS\)\n +maxconn (\d+)\n +\.else\n +maxconn (\d+)\n", config)
    assert len(found) == 2, "HTTP and gRPC"
    connections = sum(int(with_tls if tls else without) for with_tls, without in found)
    limit = container(deployed())["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    # A tenth is left for what the kernel holds of a connection.
    assert 2 * (26 * 1024 + connections * kib) < 0.9 * int(limit.removesuffix("Mi")) * 1024


def test_comments_change_no_router() -> None:
    def packed(cfg: str, lua: str) -> str:
        return pack({"haproxy.cfg": cfg, "routes.lua": lua})

    plain = packed("global\n  maxconn 5\n", "local a = 1\n")
    assert packed("# why\nglobal\n\n  # because\n  maxconn 5\n", "-- why\nlocal a = 1\n") == plain
    assert packed("global\n  maxconn 6\n", "local a = 1\n") != plain
    assert packed("global\n  maxconn 5\n", "local a = 2\n") != plain


def test_a_router_unpacks_the_files_of_this_release() -> None:
    files = dict(router_files())
    env = {item["name"]: item["value"] for item in container(deployed())["env"]}
    assert is_current(env[router.FILES_VARIABLE], files)
    files["routes.lua"] += "os.exit(1)\n"
    assert not is_current(env[router.FILES_VARIABLE], files)


def section(config: str, name: str) -> list[str]:
    """Return the rules of one section of HAProxy's configuration, without comments."""
    body = config.split(f"\n{name}\n", 1)[1].split("\n\n", 1)[0]
    return [line.strip() for line in body.splitlines() if not line.strip().startswith("#")]


def test_http_and_grpc_are_drawn_by_the_same_rules() -> None:
    """HAProxy has no way to share rules that follow others, so they stand twice."""
    config = router_files()["haproxy.cfg"]
    http, grpc = (
        [line.replace("grpc_", "") for line in section(config, f"frontend {name} from base")]
        for name in ("traffic", "grpc")
    )
    end = http.index("use_backend %[var(txn.to)] if { var(txn.to) -m found }")
    draw = http[http.index("acl counts var(txn.key) -m found") : end]
    assert len(draw) > 20
    deadline = "http-request set-var(txn.deadline) req.hdr(x-mlmodel-timeout-ms) if counts"
    assert [rule for rule in draw if rule not in grpc] == ["http-request lua.assign http if counts assigning", deadline]
    assert "http-request lua.assign grpc if counts assigning" in grpc


@pytest.mark.parametrize("prefix", ["", "grpc_"])
@pytest.mark.parametrize("kind", ["only", "stable", "candidate", "chosen", "assigned", "own", "retry"])
def test_both_slots_have_the_same_rules(prefix: str, kind: str) -> None:
    config = router_files()["haproxy.cfg"]
    parent = {"chosen": "candidate", "assigned": "candidate", "retry": "own"}.get(kind, kind)
    word = "listen" if parent == "own" else "backend"
    a, b = (section(config, f"{word} {prefix}{kind}_{slot} from {parent}") for slot in "ab")
    # Each names the proxies of its slot, and for the retry that of the other one.
    swap = {"a": "b", "b": "a"}
    assert [re.sub(r"""(?<=[-_])[ab](?=["),])""", lambda name: swap[name[0]], line) for line in a] == b
