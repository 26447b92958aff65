"""The programs of a node and their configuration: pure functions from settings to command lines and files.

Paths are those inside the node's own mount namespace, the same for every cluster.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DATA = "/run/node"
"""The cluster's run directory, as the node sees it."""

BIN = "/run/bin"
"""The built programs, as the node sees them."""

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
NODE = "node1"
NODE_ADDRESS = "192.0.2.10"
GATEWAY = "192.0.2.1"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
METRICS_PORT = 4443

INTEGRATION_CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "validatingadmissionpolicy-status-controller",
)
"""Controllers that an API server without a node needs: deleted namespaces and owned objects disappear, the roles `edit`
and `admin` have rules, and the types in admission policies are checked."""


@dataclass(frozen=True)
class Service:
    """A program that the node's first process keeps running."""

    name: str
    argv: tuple[str, ...]
    after_api: bool = False
    """Start it only when the API server is ready; its own retries would back off and take longer."""


def service_list(*, node: bool, listener: int, api_port: int) -> list[Service]:
    """Return the services: the control plane, and unless `node` is false everything that pods need.

    `listener` is the file descriptor of the inherited socket through which the host reaches the API server. `api_port`
    is the port of both, so that 127.0.0.1:PORT is valid on the host and inside.
    """
    control_plane = _control_plane(node=node, listener=listener, api_port=api_port)
    return [*control_plane, *_node_services()] if node else control_plane


def _control_plane(*, node: bool, listener: int, api_port: int) -> list[Service]:
    return [
        Service("etcd", (f"{BIN}/etcd", *_etcd_flags())),
        Service("kube-apiserver", (f"{BIN}/kube-apiserver", *_api_server_flags(api_port))),
        Service("relay", ("PYTHON", "-m", "hack.cluster.relay", str(listener), "127.0.0.1", str(api_port))),
        Service(
            "kube-controller-manager",
            (
                f"{BIN}/kube-controller-manager",
                *_client_flags("kube-controller-manager"),
                f"--controllers={'*' if node else ','.join(INTEGRATION_CONTROLLERS)}",
                f"--service-account-private-key-file={DATA}/pki/sa.key",
                f"--root-ca-file={DATA}/pki/ca.crt",
                f"--cluster-signing-cert-file={DATA}/pki/ca.crt",
                f"--cluster-signing-key-file={DATA}/pki/ca.key",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                # So that a test of autoscaling takes seconds; the default is 15.
                "--horizontal-pod-autoscaler-sync-period=5s",
            ),
            after_api=True,
        ),
    ]


def _node_services() -> list[Service]:
    return [
        Service("containerd", (f"{BIN}/containerd", "--config", f"{DATA}/containerd.toml")),
        Service(
            "kube-scheduler",
            (f"{BIN}/kube-scheduler", *_client_flags("kube-scheduler"), "--leader-elect=false"),
            after_api=True,
        ),
        Service(
            "kubelet",
            (
                f"{BIN}/kubelet",
                f"--config={DATA}/kubelet.yaml",
                f"--kubeconfig={DATA}/kubelet.kubeconfig",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
                f"--root-dir={DATA}/kubelet",
                f"--cert-dir={DATA}/kubelet-pki",
            ),
            after_api=True,
        ),
        Service(
            "kube-proxy",
            (
                f"{BIN}/kube-proxy",
                f"--kubeconfig={DATA}/kube-proxy.kubeconfig",
                f"--hostname-override={NODE}",
                "--proxy-mode=nftables",
                f"--cluster-cidr={POD_NETWORK}",
                # Without the right to change the machine's limit of tracked connections, it would exit.
                "--conntrack-max-per-core=0",
            ),
            after_api=True,
        ),
        Service("coredns", (f"{BIN}/coredns", "-conf", f"{DATA}/Corefile"), after_api=True),
        Service(
            "metrics-server",
            (
                f"{BIN}/metrics-server",
                f"--kubeconfig={DATA}/metrics-server.kubeconfig",
                f"--authentication-kubeconfig={DATA}/metrics-server.kubeconfig",
                f"--authorization-kubeconfig={DATA}/metrics-server.kubeconfig",
                f"--secure-port={METRICS_PORT}",
                f"--tls-cert-file={DATA}/pki/metrics-server-serving.crt",
                f"--tls-private-key-file={DATA}/pki/metrics-server-serving.key",
                f"--kubelet-certificate-authority={DATA}/pki/ca.crt",
                "--kubelet-preferred-address-types=InternalIP",
                "--metric-resolution=10s",
                # Must be shorter than the resolution.
                "--kubelet-request-timeout=5s",
            ),
            after_api=True,
        ),
    ]


def _etcd_flags() -> list[str]:
    return [
        "--name=etcd",
        f"--data-dir={DATA}/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=etcd=http://127.0.0.1:2380",
        # Nothing here has to survive a power cut.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server_flags(port: int) -> list[str]:
    pki = f"{DATA}/pki"
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--secure-port={port}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--tls-cert-file={pki}/kube-apiserver.crt",
        f"--tls-private-key-file={pki}/kube-apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        # The name of the node is not in DNS.
        "--kubelet-preferred-address-types=InternalIP",
        # Aggregation, for metrics-server. Its authority must not be that of the clients.
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--enable-aggregator-routing=true",
        f"--audit-policy-file={DATA}/audit-policy.yaml",
        f"--audit-log-path={DATA}/log/audit.log",
    ]


def _client_flags(name: str) -> list[str]:
    return [f"--{use}kubeconfig={DATA}/{name}.kubeconfig" for use in ("", "authentication-", "authorization-")]


def files(*, cgroup: str) -> dict[str, str]:
    """Return the configuration files of a node by name in its run directory; JSON where YAML is expected."""
    return {
        "audit-policy.yaml": json.dumps(_audit_policy()),
        "kubelet.yaml": json.dumps(_kubelet_config(cgroup)),
        "containerd.toml": containerd_config(f"{DATA}/containerd", "/run/containerd", CONTAINERD_SOCKET),
        "cni/net.d/10-pods.conflist": json.dumps(_pod_network()),
        "Corefile": _corefile(),
        # For pods: kubelet adds the search list.
        "resolv.conf": f"nameserver {DNS_ADDRESS}\n",
        # For commands inside the network: as in a pod of the default namespace, without the host's name services.
        "exec/resolv.conf": f"nameserver {DNS_ADDRESS}\n"
        "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        "exec/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    }


def _audit_policy() -> dict[str, Any]:
    writes = ["create", "update", "patch", "delete", "deletecollection"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "verbs": writes}, {"level": "None"}],
    }


def _kubelet_config(cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{DATA}/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{DATA}/pki/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{DATA}/pki/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_ADDRESS],
        "resolvConf": f"{DATA}/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        # From 1.35 on, kubelet rejects cgroup v1 by default, though it still works.
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The disk belongs to the machine, not to the cluster: do not evict pods because other programs fill it.
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": f"{DATA}/pods",
        "volumePluginDir": f"{DATA}/volume-plugins",
        "serializeImagePulls": False,
        # Tests kill containers repeatedly; the default doubles from 10 s to 5 min.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    }


def containerd_config(root: str, state: str, socket: str, *, pods: bool = True) -> str:
    """Return containerd's configuration; without `pods`, only with the plugins that store images.

    The plugins that serve pods would give every image further names, and an image that has a name is never removed.
    """
    disabled = ["io.containerd.nri.v1.nri"]
    if not pods:
        disabled += ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
    return f"""version = 3
root = "{root}"
state = "{state}"
disabled_plugins = {json.dumps(disabled)}

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:3.10"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE, as in many containers, the kernel rejects the OOM score that CRI sets, and no pod starts.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{BIN}"]
  conf_dir = "{DATA}/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""


def _pod_network() -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_NETWORK}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{DATA}/cni/addresses",
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}


def _corefile() -> str:
    # Pods cannot reach other networks, so DNS answers NXDOMAIN at once for every name outside of the cluster.
    return f"""cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
  bind {NODE_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {DATA}/coredns.kubeconfig
    pods insecure
  }}
}}
.:53 {{
  bind {NODE_ADDRESS}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def kubeconfig(server: str, authority: bytes, certificate: bytes, key: bytes, name: str = "mlmodel") -> str:
    """Return a kubeconfig as JSON with the keys (PEM) in it, so that it also works as a copy elsewhere."""
    encoded = [base64.b64encode(part).decode() for part in (authority, certificate, key)]
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encoded[0]}}],
            "users": [{"name": name, "user": {"client-certificate-data": encoded[1], "client-key-data": encoded[2]}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        },
        indent=1,
    )


CLIENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-proxy": ("system:kube-proxy", ()),
    "kubelet": (f"system:node:{NODE}", ("system:nodes",)),
    # A long-lived cluster would give these two their own roles.
    "coredns": ("coredns", ("system:masters",)),
    "metrics-server": ("metrics-server", ("system:masters",)),
}
"""Identities of the programs: name of the kubeconfig to user and groups (bootstrap names of RBAC)."""


def addons(authority: bytes) -> dict[str, Any]:
    """Return the Services of the programs that run outside of pods, cluster DNS and metrics, as one list to apply."""
    items: list[dict[str, Any]] = []
    for name, cluster_ip, ports in (
        ("kube-dns", DNS_ADDRESS, [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)]),
        ("metrics-server", None, [("https", "TCP", 443, METRICS_PORT)]),
    ):
        items += _service_to_node(name, cluster_ip, ports)
    items.append(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": "metrics-server", "namespace": "kube-system"},
                "caBundle": base64.b64encode(authority).decode(),
            },
        }
    )
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _service_to_node(
    name: str, cluster_ip: str | None, ports: Sequence[tuple[str, str, int, int]]
) -> list[dict[str, Any]]:
    """Return a Service without a selector, and the EndpointSlice with the address of the node."""
    service: dict[str, Any] = {
        "ports": [
            {"name": port, "protocol": protocol, "port": outer, "targetPort": inner}
            for port, protocol, outer, inner in ports
        ]
    }
    if cluster_ip:
        service["clusterIP"] = cluster_ip
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": service,
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-node",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": port, "protocol": protocol, "port": inner} for port, protocol, _, inner in ports],
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
    ]
