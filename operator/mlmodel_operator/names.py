"""Names and ports that several modules, other programs and running clusters share.

Users see them, and the objects in a running cluster contain them: a change here requires a migration.
"""

from __future__ import annotations

from typing import Final, Literal

GROUP = "mlmodel.dev"  # API group of MLModel, and prefix of its labels and annotations
VERSION = "v1alpha1"  # version of the API
API_VERSION = f"{GROUP}/{VERSION}"  # `apiVersion` of an MLModel
KIND = "MLModel"  # `kind` of an MLModel
PLURAL = "mlmodels"  # name of the kind in URLs and roles
CRD = f"{PLURAL}.{GROUP}"  # name of the CustomResourceDefinition

OPERATOR = "mlmodel-operator"  # its program, image, Deployment, ServiceAccount, roles, Lease and Event source
FIELD_MANAGER = OPERATOR  # owner of the fields that server-side apply writes
NAMESPACE = "mlmodel-system"  # where install.yaml puts the operator
PROJECT = "mlmodel"  # value of the part-of label of everything that the project installs or creates

NAME_LABEL = "app.kubernetes.io/name"  # standard label: the model's name, or the operator's
PART_OF_LABEL = "app.kubernetes.io/part-of"  # standard label: PROJECT
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"  # standard label of every child: OPERATOR; watches select by it
MODEL_LABEL = f"{GROUP}/model"  # on every child: the name of its MLModel; the store groups by it
COMPONENT_LABEL = f"{GROUP}/component"  # on every child: SERVER or ROUTER
REVISION_LABEL = f"{GROUP}/revision"  # on the children of one revision: its identity
ADOPTED_LABEL = f"{GROUP}/adopted"  # on a ControllerRevision: it was that of a former MLModel of the same name
METRICS_LABEL = f"{GROUP}/metrics"  # on a namespace, by an administrator: its pods may read the metrics of models
NAME_OF_NAMESPACE = "kubernetes.io/metadata.name"  # on every namespace, by Kubernetes: its name
RECORD_LABEL = f"{GROUP}/record"  # on a ControllerRevision: what it records (see resources/records.py)

SNAPSHOT_ANNOTATION = f"{GROUP}/snapshot"  # on the record of a revision: digest of its snapshot, image included
APPLIED_ANNOTATION = f"{GROUP}/applied"  # on every child: hash of the intent that was last applied
TEMPLATE_ANNOTATION = f"{GROUP}/template"  # on a revision's Deployment: hash of its pod template
CONFIG_ANNOTATION = f"{GROUP}/config"  # in the router's pod template and on its pods: hash of its configuration
ROUTES_ANNOTATION = f"{GROUP}/routes"  # on a router pod: the routes that it follows
WAKE_ANNOTATION = f"{GROUP}/wake"  # on a router pod: changes when kubelet must refresh its files once more
SIDES_ANNOTATION = f"{GROUP}/sides"  # on a router pod: which requests a header assigns, if any
REHEARSAL_ANNOTATION = f"{GROUP}/rehearsal"  # on a server pod: the candidate of a rehearsal, if any

ACCEPT_ANNOTATION = f"{GROUP}/accept-change"  # on an MLModel: revision whose other answers are intended

APPROVE_ANNOTATION = f"{GROUP}/approve"  # on an MLModel, by a user: approves a step with `pause` (rollout/approval.py)

REQUESTS_OPTION = "--rehearsal-requests"  # option of the server: number of requests that it keeps; 0 for none
FILES_OPTION = "--files-sha256"  # option of the server: digest of a ConfigMap's files when the revision started

Component = Literal["server", "router"]
SERVER: Final = "server"  # component that runs a model, and the container in its pods
FETCHER: Final = "fetch"  # init container of a server pod that downloads the model: it has the credentials
ROUTER: Final = "router"  # component that routes a model's requests, and the container in its pods

API_KEYS = "api-keys"  # volume of a server pod with the hashes of the API keys
FEEDBACK_KEY = "feedback-key"  # volume of a server pod with the key of prediction ids
REHEARSAL = (
    "rehearsal"  # file and volume of a server pod that rehearses, port of all; key of the ConfigMap with the routes
)

SERVER_PORT = 8080  # HTTP of a server pod and of its revision's Service
ROUTER_PORT = 8080  # HTTP of a router pod
GRPC_PORT = 9000  # gRPC of server and router pods and of both Services: HTTP/2 from the first byte, without TLS
ROUTER_TLS_PORT = 8443  # HTTP over TLS of a router pod, with spec.traffic.tls
GRPC_TLS_PORT = 9443  # gRPC over TLS of a router pod and of the model's Service, with spec.traffic.tls
ROUTER_STATUS_PORTS = (9090, 9091)  # status, metrics and probes of the two HAProxy processes of a router pod
REHEARSAL_PORT = 8090  # results of a rehearsal and of labels, as counts, of a server pod
SERVICE_PORT = 80  # HTTP of the model's Service, which leads to the routers
SERVICE_TLS_PORT = 443  # HTTP over TLS of the model's Service, with spec.traffic.tls
OPERATOR_PORT = 8081  # metrics and probes of the operator


def selector(model: str, component: Component, revision: str = "") -> dict[str, str]:
    """Return the labels that select the pods of one component of a model; with ``revision`` only of that revision."""
    labels = {MODEL_LABEL: model, COMPONENT_LABEL: component}
    return labels | {REVISION_LABEL: revision} if revision else labels


def revision_name(model: str, revision: str) -> str:
    """Return the name of the Deployment, Service, autoscaler and disruption budget of one revision."""
    return f"{model}-{revision}"


def routes_name(model: str) -> str:
    """Return the name of the ConfigMap with the routes."""
    return f"{model}-routes"


def router_config_name(model: str) -> str:
    """Return the name of the ConfigMap with the configuration of the router in the release before."""
    return f"{router_name(model)}-config"


def router_name(model: str) -> str:
    """Return the name of the router's Deployment and disruption budget; its Service has the model's own name."""
    return f"{model}-{ROUTER}"


def server_policy_name(model: str) -> str:
    """Return the name of the NetworkPolicy of all server pods; that of the routers is named like their Deployment."""
    return f"{model}-{SERVER}"
