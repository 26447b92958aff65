"""The programs of a node and their configuration."""

import base64
import json
import re
import tomllib

import pytest

from hack.cluster import config
from hack.cluster.binaries import PROGRAMS

WHOLE = config.service_list(node=True, listener=7, api_port=40001)
API_ONLY = config.service_list(node=False, listener=7, api_port=40001)


def argv(name: str) -> tuple[str, ...]:
    return next(service.argv for service in WHOLE if service.name == name)


def test_a_node_runs_everything_that_pods_need() -> None:
    assert {service.name for service in WHOLE} == {
        *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
        *("containerd", "coredns", "metrics-server", "relay"),
    }


def test_without_a_node_only_the_controllers_that_remove_deleted_objects_run() -> None:
    assert [service.name for service in API_ONLY] == ["etcd", "kube-apiserver", "relay", "kube-controller-manager"]
    controllers = next(word for word in API_ONLY[-1].argv if word.startswith("--controllers="))
    assert "garbage-collector-controller" in controllers
    assert "*" not in controllers


def test_every_program_is_built() -> None:
    built = {f"{config.BIN}/{program.name}" for program in PROGRAMS}
    assert {service.argv[0] for service in WHOLE} - {"PYTHON"} <= built


def test_every_file_that_a_command_line_names_is_written() -> None:
    named = {
        found.removeprefix(f"{config.DATA}/")
        for service in WHOLE
        for word in service.argv
        for found in re.findall(rf"{config.DATA}/[^, ]+\.(?:yaml|toml|kubeconfig)|{config.DATA}/Corefile", word)
    }
    written = {*config.files(cgroup="c"), *(f"{client}.kubeconfig" for client in config.CLIENTS)}
    assert named
    assert named <= written


def test_host_and_node_reach_the_api_server_at_the_same_port() -> None:
    assert "--secure-port=40001" in argv("kube-apiserver")
    assert argv("relay")[-3:] == ("7", "127.0.0.1", "40001")


def test_services_that_need_the_api_server_start_after_it() -> None:
    at_once = {service.name for service in WHOLE if not service.after_api}
    assert at_once == {"etcd", "kube-apiserver", "relay", "containerd"}


def test_autoscaling_is_quick() -> None:
    assert "--horizontal-pod-autoscaler-sync-period=5s" in argv("kube-controller-manager")


def test_pods_of_two_clusters_are_in_different_cgroups() -> None:
    roots = [json.loads(config.files(cgroup=name)["kubelet.yaml"])["cgroupRoot"] for name in ("one", "two")]
    assert roots == ["/one", "/two"]


def test_audit_log_holds_writes_only() -> None:
    policy = json.loads(config.files(cgroup="c")["audit-policy.yaml"])
    written, rest = policy["rules"]
    assert set(written["verbs"]) == {"create", "update", "patch", "delete", "deletecollection"}
    assert rest == {"level": "None"}


def test_containerd_runs_pods_without_the_right_to_lower_oom_scores() -> None:
    plugins = tomllib.loads(config.containerd_config("/root", "/state", "/socket"))["plugins"]
    assert plugins["io.containerd.cri.v1.runtime"]["restrict_oom_score_adj"] is True


def test_kubeconfig_contains_its_keys() -> None:
    parsed = json.loads(config.kubeconfig("https://127.0.0.1:1", b"authority", b"certificate", b"key"))
    user = parsed["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"key"
    assert base64.b64decode(parsed["clusters"][0]["cluster"]["certificate-authority-data"]) == b"authority"
    assert parsed["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"


@pytest.mark.parametrize("service", ["kube-dns", "metrics-server"])
def test_services_of_the_node_point_at_it(service: str) -> None:
    items = config.addons(b"authority")["items"]
    slices = [item for item in items if item["kind"] == "EndpointSlice"]
    mine = next(item for item in slices if item["metadata"]["labels"]["kubernetes.io/service-name"] == service)
    assert mine["endpoints"][0]["addresses"] == [config.NODE_ADDRESS]
    spec = next(i["spec"] for i in items if i["kind"] == "Service" and i["metadata"]["name"] == service)
    assert "selector" not in spec
    assert [port["name"] for port in spec["ports"]] == [port["name"] for port in mine["ports"]]


def test_pods_use_the_address_of_the_dns_service() -> None:
    kubelet = json.loads(config.files(cgroup="c")["kubelet.yaml"])
    dns = next(i for i in config.addons(b"")["items"] if i["metadata"]["name"] == "kube-dns")
    assert kubelet["clusterDNS"] == [dns["spec"]["clusterIP"]]
