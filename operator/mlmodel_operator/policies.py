"""ValidatingAdmissionPolicies: what the operator's account may write, and no one else.

A role of Kubernetes permits a kind as a whole: an account that may create Deployments may create any. These policies
permit what the builders in ``resources`` make. They are lists of what is allowed: a field that is not named is
rejected. `manifests/install.yaml` contains them, and the API server evaluates them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mlmodel_operator.api.types import Owner, Traffic
from mlmodel_operator.names import (
    API_KEYS,
    COMPONENT_LABEL,
    FEEDBACK_KEY,
    FETCHER,
    GROUP,
    KIND,
    MANAGED_BY_LABEL,
    MODEL_LABEL,
    NAME_LABEL,
    OPERATOR,
    PART_OF_LABEL,
    PLURAL,
    PROJECT,
    REHEARSAL,
    REVISION_LABEL,
    ROUTER,
    SERVER,
)
from mlmodel_operator.resources import common, router_deployment
from mlmodel_operator.resources.common import Body
from mlmodel_operator.resources.router import FILES_VARIABLE, packed_files
from mlmodel_operator.resources.server import STORAGE_SECRET

API = "admissionregistration.k8s.io/v1"  # since Kubernetes 1.30
IMAGES = f"{OPERATOR}-images"
"""Name of the ConfigMap with the images that the operator may run; `kustomize` changes it with `images:`."""

ROUTER_FILES = "routerFiles"
"""Entry of the same ConfigMap with what a router pod unpacks and runs."""

CHILDREN = f"{OPERATOR}-children"
DEPLOYMENTS = f"{OPERATOR}-deployments"
RUN_IMAGES = f"{OPERATOR}-runs-images"
REFERENCES = f"{OPERATOR}-references"
PODS = f"{OPERATOR}-pods"
EVENTS = f"{OPERATOR}-events"
LEASES = f"{OPERATOR}-leases"
LABELS = f"{PROJECT}-labels"
METADATA = f"{PROJECT}-metadata"
"""Names of the policies."""

RESTORE = ("children", "restore")
"""Subresource of MLModels, which exists only in roles, and verb: the right to set our labels, for a restore."""

MAX_ANNOTATIONS = 32 * 1024
MAX_OWN_ANNOTATION = 256
MAX_LABELS = 64
MAX_REFERENCES = 16
MAX_MANAGERS = 32
"""Bounds of the metadata of an MLModel: bytes of all annotations, bytes of one of ours, labels, owners and finalizers,
and field managers. The largest spec, which `kubectl apply` copies into an annotation, has less than a third of it."""

_NO_LABELS = "dyn({})"


@dataclass(frozen=True)
class Rule:
    """One validation: what must hold, and the message if it does not, as text or as a CEL expression."""

    expression: str
    message: str = ""
    message_expression: str = ""

    def body(self) -> Body:
        """Return the rule as part of a policy."""
        texts = {"message": self.message, "messageExpression": self.message_expression}
        return {
            "expression": self.expression,
            **{key: text for key, text in texts.items() if text},
            "reason": "Forbidden",  # the default is that of an invalid field
        }


def policies(namespace: str, server_image: str, router_image: str) -> list[Body]:
    """Return the policies with their bindings, for an operator in ``namespace`` that runs these images."""
    bodies: list[Body] = [_images(namespace, server_image, router_image)]
    for policy in (
        _children(namespace),
        _deployments(namespace),
        _run_images(namespace),
        _references(namespace),
        _pods(namespace),
        _events(namespace),
        _leases(namespace),
        _labels(namespace),
        _metadata(),
    ):
        bodies += [policy, _binding(policy, namespace)]
    return bodies


def account(namespace: str) -> str:
    """Return the name of the operator's user."""
    return f"system:serviceaccount:{namespace}:{OPERATOR}"


# ------------------------------------------------------------------------------------------------------ the operator


def _children(namespace: str) -> Body:
    """The operator writes only children of MLModels, and only into namespaces of users."""
    target = 'request.operation == "DELETE" ? oldObject : object'
    ours = f"{_labels_of('oldObject')}[?{_text(MANAGED_BY_LABEL)}].orValue('') == {_text(OPERATOR)}"
    rules = [
        Rule(
            f'!request.namespace.startsWith("kube-") && request.namespace != {_text(namespace)}',
            f"the operator creates no objects in kube-* and {namespace}: create the MLModel in another namespace",
        ),
        Rule(
            f"variables.owners.exists_one(o, o.kind == {_text(KIND)} && o.name == variables.model"
            f" && o.apiVersion.startsWith({_text(GROUP + '/')}))",
            f"the operator writes and deletes only objects whose controller is the {KIND} that the label {MODEL_LABEL}"
            " names",
        ),
        Rule(
            'request.operation == "DELETE" || (variables.labels[?'
            f"{_text(MANAGED_BY_LABEL)}].orValue('') == {_text(OPERATOR)}"
            " && (variables.target.metadata.name == variables.model"
            ' || variables.target.metadata.name.startsWith(variables.model + "-")))',
            f"the operator writes only objects with its labels that are named after their {KIND}",
        ),
        Rule(
            'request.operation != "UPDATE" || variables.before.exists_one(o, '
            f"o.kind == {_text(KIND)} && o.apiVersion.startsWith({_text(GROUP + '/')}))"
            f" || (size(variables.before) == 0 && {ours})",
            "the operator changes only objects that it has created",
        ),
        Rule(
            'request.operation == "DELETE" || object.metadata.?finalizers.orValue([]).all(f, '
            'request.operation == "UPDATE" && f in oldObject.metadata.?finalizers.orValue([]))',
            "the operator sets no finalizers",
        ),
    ]
    variables = {
        "target": target,
        "labels": _labels_of("variables.target"),
        "model": f"variables.labels[?{_text(MODEL_LABEL)}].orValue('')",
        "owners": _controllers("variables.target"),
        "before": f"oldObject == null ? [] : {_controllers('oldObject')}",
    }
    kinds = (
        _match("apps", "v1", "deployments", "controllerrevisions"),
        _match("", "v1", "services", "configmaps"),
        _match("autoscaling", "v2", "horizontalpodautoscalers"),
        _match("policy", "v1", "poddisruptionbudgets"),
        _match("networking.k8s.io", "v1", "networkpolicies"),
    )
    return _policy(CHILDREN, kinds, rules, variables, {"operator": _by_operator(namespace)})


def _deployments(namespace: str) -> Body:
    """The pods of a new or changed template are those that ``resources`` builds."""
    template_labels = [MANAGED_BY_LABEL, PART_OF_LABEL, NAME_LABEL, MODEL_LABEL, COMPONENT_LABEL, REVISION_LABEL]
    known = ["eks.amazonaws.com/skip-containers", "kubectl.kubernetes.io/restartedAt"]
    rules = [
        Rule(
            f"dyn(object.spec.template.metadata).?labels.orValue({{}}).all(k, k in {_text(template_labels)})"
            f" && dyn(object.spec.template.metadata).?annotations.orValue({{}}).all(k, k in {_text(known)}"
            f" || k.startsWith({_text(GROUP + '/')}))",
            "the pods have a label or an annotation that is not the operator's",
        ),
        Rule(
            f"object.spec.template.metadata.labels[?{_text(MODEL_LABEL)}].orValue('') =="
            f" object.metadata.labels[?{_text(MODEL_LABEL)}].orValue('')",
            "the pods are labelled as those of another model",
        ),
        _only(
            "variables.pod",
            "spec.template.spec",
            [
                *("automountServiceAccountToken", "containers", "dnsPolicy", "enableServiceLinks", "initContainers"),
                *("restartPolicy", "schedulerName", "securityContext", "terminationGracePeriodSeconds"),
                *("topologySpreadConstraints", "volumes"),
            ],
        ),
        Rule(
            "variables.pod.?automountServiceAccountToken.orValue(true) == false"
            ' && variables.pod.?schedulerName.orValue("default-scheduler") == "default-scheduler"'
            ' && variables.pod.?dnsPolicy.orValue("ClusterFirst") == "ClusterFirst"'
            f" && variables.pod.?securityContext.orValue({_NO_LABELS}) == {_text(common.pod_security())}",
            "the pods must have no token of a service account, and the security context of the operator",
        ),
        *_container_rules(),
        *_volume_rules(),
    ]
    variables = {
        "pod": "dyn(object.spec.template.spec)",
        "containers": "variables.pod.containers + variables.pod.?initContainers.orValue(dyn([]))",
        "volumes": "variables.pod.?volumes.orValue(dyn([]))",
        "model": f"object.metadata.?labels[?{_text(MODEL_LABEL)}].orValue('')",
    }
    conditions = {"operator": _by_operator(namespace), "template": _CHANGED_TEMPLATE}
    return _policy(DEPLOYMENTS, _WRITTEN_DEPLOYMENTS, rules, variables, conditions)


def _container_rules() -> list[Rule]:
    fields = [
        *("args", "command", "env", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports"),
        *("readinessProbe", "resources", "securityContext", "startupProbe", "terminationMessagePath"),
        *("terminationMessagePolicy", "volumeMounts"),
    ]
    router = router_deployment(Owner("", "", ""), Traffic(), "", "")["spec"]["template"]["spec"]["containers"][0]
    probes = '["startupProbe", "readinessProbe", "livenessProbe"]'
    probe = ["failureThreshold", "httpGet", "periodSeconds", "successThreshold", "timeoutSeconds"]
    return [
        Rule(
            "size(variables.pod.containers) == 1"
            f" && variables.pod.containers.all(c, c.name in {_text([SERVER, ROUTER])})"
            " && size(variables.pod.?initContainers.orValue(dyn([]))) <= 1"
            f" && variables.pod.?initContainers.orValue(dyn([])).all(c, c.name == {_text(FETCHER)})",
            f"the pods have one container, {SERVER} or {ROUTER}, and at most the init container {FETCHER}",
        ),
        _only_each("variables.containers", "a container", fields),
        Rule(
            "variables.containers.all(c, c.?securityContext.orValue(dyn({}))"
            f" == {_text(common.container_security())})",
            "a container must have the security context of the operator",
        ),
        Rule(
            f"variables.containers.all(c, !has(c.command) || (c.name == {_text(ROUTER)}"
            f" && c.command == {_text(router['command'])}))",
            "a container has a command that is not the operator's",
        ),
        Rule(
            "variables.containers.all(c, c.?env.orValue(dyn([])).all(e,"
            ' e.name.startsWith("MLMODEL_") && !has(e.valueFrom)))',
            "a container has a variable that is not the operator's",
        ),
        Rule(
            "variables.containers.all(c, c.?ports.orValue(dyn([])).all(p,"
            ' p.all(k, k in ["containerPort", "name", "protocol"])))',
            "a container has a port on the node",
        ),
        Rule(
            f"variables.containers.all(c, {probes}.filter(p, p in c).all(p, c[p].all(k, k in {_text(probe)})"
            ' && c[p].httpGet.all(k, k in ["path", "port", "scheme"]))'
            ' && c.?lifecycle.orValue(dyn({})).all(k, k == "preStop" && c.lifecycle.preStop.all(h, h == "sleep")))',
            "a container has a probe or a hook that is not the operator's",
        ),
        Rule(
            "variables.containers.all(c, c.?volumeMounts.orValue(dyn([])).all(m,"
            ' m.all(k, k in ["mountPath", "name", "readOnly", "recursiveReadOnly", "subPath"])))',
            "a container has a mount that is not the operator's",
        ),
    ]


def _volume_rules() -> list[Rule]:
    """Each volume has one of these names, and a source that belongs to it."""
    own = '("configMap" in v && v.configMap.name.startsWith(variables.model + "-"))'
    annotations = (
        '("downwardAPI" in v && v.downwardAPI.items.all(i, i.all(k, k in ["fieldRef", "path"])'
        f""" && i.fieldRef.fieldPath.startsWith("metadata.annotations['{GROUP}/")))"""
    )
    claim = '(!("persistentVolumeClaim" in v) || v.persistentVolumeClaim.?readOnly.orValue(false))'
    sources = {
        "tmp": '"emptyDir" in v',
        "model": f'["emptyDir", "configMap", "image", "persistentVolumeClaim"].exists(s, s in v) && {claim}',
        "storage": f'"secret" in v && v.secret.secretName == {_text(STORAGE_SECRET)}',
        "config": f'("emptyDir" in v || {own})',
        "routes": own,
        "assigned": annotations,
        REHEARSAL: f"({own} || {annotations})",
        **{name: _items(keys) for name, keys in _SECRET_KEYS.items()},
    }
    expression = " || ".join(f"(v.name == {_text(name)} && {source})" for name, source in sources.items())
    return [
        Rule(
            f"variables.volumes.all(v, v.size() == 2 && ({expression}))",
            "",
            '"a volume is not the operator\'s: " + variables.volumes.map(v, v.name).join(", ")',
        ),
    ]


_SECRET_KEYS = {
    API_KEYS: ["keys"],
    "keys": ["keys"],
    "tls": ["tls.crt", "tls.key"],
    FEEDBACK_KEY: ["key"],
}
"""Volumes from Secrets that users name, and the only entries that may be mounted."""


def _items(keys: list[str]) -> str:
    return (
        f'"secret" in v && size(v.secret.?items.orValue(dyn([]))) > 0 && v.secret.items.all(i, i.key in {_text(keys)})'
    )


def _run_images(namespace: str) -> Body:
    """The operator runs its own images, any tag or digest of the repositories in the ConfigMap, and in a router the
    files that are there.

    A revision keeps the image with which it was rolled out, and the operator must be able to build it again, so the
    images of the release before are allowed too. Without the ConfigMap nothing is allowed, so the policy selects our
    Deployments: those of others do not depend on it.
    """

    def repository(image: str) -> str:
        name = f'{image}.split("@")[0]'
        colon = f'{name}.lastIndexOf(":")'
        return f'({colon} > {name}.lastIndexOf("/") ? {name}.substring(0, {colon}) : {name})'

    more = 'params.data.?more.orValue("").split("\\n").map(l, l.trim()).filter(l, l != "")'
    hint = f"in the ConfigMap {IMAGES} in the namespace {namespace}"
    pod = "dyn(object.spec.template.spec)"
    rules = [
        Rule(
            "variables.containers.all(c, c.repository in (c.router ? variables.routers : variables.servers))",
            "",
            '"the operator may not run the image " + variables.containers.map(c, c.image).join(", ") + '
            f'": add it to the lines of `more` {hint}"',
        ),
        Rule(
            f"{pod}.containers.all(c, c.name != {_text(ROUTER)} || c.?env.orValue(dyn([])).all(e,"
            f" e.name != {_text(FILES_VARIABLE)} || e.value == params.data[?{_text(ROUTER_FILES)}].orValue('')))",
            f"the router's files are not those of this release ({ROUTER_FILES} {hint}): apply the install.yaml of the"
            " release that runs",
        ),
    ]
    described = (
        f'({pod}.containers + {pod}.?initContainers.orValue(dyn([]))).map(c, {{"image": dyn(c.image),'
        f' "router": dyn(c.name == {_text(ROUTER)}), "repository": dyn({repository("c.image")})}})'
    )
    variables = {
        "more": more,
        "servers": f"([params.data.?server.orValue('')] + variables.more).map(i, {repository('i')})",
        "routers": f"([params.data.?router.orValue('')] + variables.more).map(i, {repository('i')})",
        "containers": described,
    }
    conditions = {"operator": _by_operator(namespace), "template": _CHANGED_TEMPLATE}
    policy = _policy(RUN_IMAGES, _WRITTEN_DEPLOYMENTS, rules, variables, conditions)
    policy["spec"]["paramKind"] = {"apiVersion": "v1", "kind": "ConfigMap"}
    policy["spec"]["matchConstraints"]["objectSelector"] = {"matchLabels": {MANAGED_BY_LABEL: OPERATOR}}
    return policy


def _references(namespace: str) -> Body:
    """What the other children refer to: pods of the same model, and addresses inside the cluster."""
    own = f"[?{_text(MODEL_LABEL)}].orValue('') == variables.model"
    is_kind = {
        name: f"request.resource.resource == {_text(name)}"
        for name in (
            *("services", "horizontalpodautoscalers", "poddisruptionbudgets", "controllerrevisions"),
            "networkpolicies",
        )
    }
    service = [
        *("clusterIP", "clusterIPs", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "ports", "selector"),
        *("sessionAffinity", "type"),
    ]
    rules = [
        Rule(
            f"!({is_kind['services']}) || (variables.spec.all(k, k in {_text(service)})"
            ' && variables.spec.?type.orValue("ClusterIP") == "ClusterIP"'
            f" && variables.spec.?selector.orValue({_NO_LABELS}){own}"
            f" && variables.spec.selector.all(k, k in {_text([MODEL_LABEL, COMPONENT_LABEL, REVISION_LABEL])}))",
            "the operator creates only Services of the type ClusterIP that select the pods of one model",
        ),
        Rule(
            f"!({is_kind['horizontalpodautoscalers']}) || (variables.spec.scaleTargetRef.kind == 'Deployment'"
            " && variables.spec.scaleTargetRef.name == object.metadata.name)",
            "an autoscaler of the operator scales the Deployment of the same name",
        ),
        Rule(
            f"!({is_kind['poddisruptionbudgets']}) || variables.spec.?selector.?matchLabels.orValue({_NO_LABELS}){own}",
            "a disruption budget of the operator selects the pods of one model",
        ),
        Rule(
            f"!({is_kind['networkpolicies']}) || variables.spec.?podSelector.?matchLabels.orValue({_NO_LABELS}){own}",
            "a NetworkPolicy of the operator selects the pods of one model",
        ),
        Rule(
            f"!({is_kind['controllerrevisions']}) || dyn(object).?data.orValue({_NO_LABELS}).all(k, k =="
            ' "mlmodelRecord")',
            "a ControllerRevision of the operator is a record",
        ),
    ]
    variables = {
        "spec": f"dyn(object).?spec.orValue({_NO_LABELS})",
        "model": f"object.metadata.?labels[?{_text(MODEL_LABEL)}].orValue('')",
    }
    kinds = (
        _match("", "v1", "services", operations=("CREATE", "UPDATE")),
        _match("apps", "v1", "controllerrevisions", operations=("CREATE", "UPDATE")),
        _match("autoscaling", "v2", "horizontalpodautoscalers", operations=("CREATE", "UPDATE")),
        _match("policy", "v1", "poddisruptionbudgets", operations=("CREATE", "UPDATE")),
        _match("networking.k8s.io", "v1", "networkpolicies", operations=("CREATE", "UPDATE")),
    )
    return _policy(REFERENCES, kinds, rules, variables, {"operator": _by_operator(namespace)})


def _pods(namespace: str) -> Body:
    """The operator sets its annotations on its pods. A patch of a pod could also change an image."""
    same = " && ".join(
        f"object.metadata.?{field} == oldObject.metadata.?{field}"
        for field in ("labels", "ownerReferences", "finalizers")
    )

    def kept(first: str, second: str) -> str:
        return (
            f"{_annotations_of(first)}.all(k, k.startsWith({_text(GROUP + '/')}) ||"
            f" {_annotations_of(second)}[?k] == optional.of({_annotations_of(first)}[k]))"
        )

    rules = [
        Rule(
            'request.operation == "UPDATE"'
            f" && {_labels_of('oldObject')}[?{_text(MANAGED_BY_LABEL)}].orValue('') == {_text(OPERATOR)}"
            f" && object.spec == oldObject.spec && {same}"
            f" && {kept('object', 'oldObject')} && {kept('oldObject', 'object')}",
            f"the operator changes nothing of a pod but its annotations {GROUP}/*",
        )
    ]
    return _policy(PODS, (_match("", "v1", "pods"),), rules, {}, {"operator": _by_operator(namespace)})


def _events(namespace: str) -> Body:
    rules = [
        Rule(
            f'request.operation == "CREATE" && object.?reportingController.orValue("") == {_text(OPERATOR)}'
            f' && object.?regarding.?kind.orValue("") == {_text(KIND)}'
            f' && object.?regarding.?apiVersion.orValue("").startsWith({_text(GROUP + "/")})',
            f"the operator posts only its own Events about {KIND}s",
        )
    ]
    match = _match("events.k8s.io", "v1", "events")
    return _policy(EVENTS, (match,), rules, {}, {"operator": _by_operator(namespace)})


def _leases(namespace: str) -> Body:
    rules = [
        Rule(
            f"request.namespace == {_text(namespace)} && request.name == {_text(OPERATOR)}",
            f"the operator writes only the Lease {OPERATOR} in {namespace}",
        )
    ]
    match = _match("coordination.k8s.io", "v1", "leases")
    return _policy(LEASES, (match,), rules, {}, {"operator": _by_operator(namespace)})


# ---------------------------------------------------------------------------------------------------------- the others


def _labels(namespace: str) -> Body:
    """Only the operator sets its labels: pods with them get requests and count as evidence.

    The controllers of Kubernetes copy them from a Deployment to its pods. A restored backup has them, so who may
    restore sets them too; a role says so, and that of cluster administrators does.
    """

    def sets(labels: str, before: str) -> str:
        return (
            f"{labels}.exists(k, (k.startsWith({_text(GROUP + '/')}) || (k == {_text(MANAGED_BY_LABEL)}"
            f" && {labels}[k] == {_text(OPERATOR)})) && {before}[?k] != optional.of({labels}[k]))"
        )

    def of_template(source: str) -> str:
        return f"dyn({source}).?spec.?template.?metadata.?labels.orValue({_NO_LABELS})"

    before = f"(oldObject == null ? {_NO_LABELS} : {_labels_of('oldObject')})"
    before_template = f"(oldObject == null ? {_NO_LABELS} : {of_template('oldObject')})"
    subresource, verb = RESTORE
    users = {
        "pods": ["system:serviceaccount:kube-system:replicaset-controller", "system:kube-controller-manager"],
        "replicasets": ["system:serviceaccount:kube-system:deployment-controller", "system:kube-controller-manager"],
    }
    controllers = " || ".join(
        f"(request.resource.resource == {_text(plural)} && request.userInfo.username in {_text(names)})"
        for plural, names in users.items()
    )
    rules = [
        Rule(
            f"{controllers} || authorizer.group({_text(GROUP)}).resource({_text(PLURAL)})"
            f".subresource({_text(subresource)}).namespace(request.namespace).check({_text(verb)}).allowed()",
            f"the labels {GROUP}/* and {MANAGED_BY_LABEL}={OPERATOR} are set by the operator: remove them from this"
            f" object and from its pod template. To restore a backup, use an account with the verb {verb} on"
            f" {PLURAL}/{subresource} (cluster administrators have it; ClusterRole mlmodel-restorer)",
        )
    ]
    conditions = {
        "others": f"request.userInfo.username != {_text(account(namespace))}",
        "labels": f"{sets(_labels_of('object'), before)} || {sets(of_template('object'), before_template)}",
    }
    written = ("CREATE", "UPDATE")
    kinds = (
        _match("", "v1", "pods", "services", "configmaps", operations=written),
        _match("apps", "v1", "deployments", "replicasets", "controllerrevisions", operations=written),
        _match("autoscaling", "v2", "horizontalpodautoscalers", operations=written),
        _match("policy", "v1", "poddisruptionbudgets", operations=written),
        _match("networking.k8s.io", "v1", "networkpolicies", operations=written),
    )
    return _policy(LABELS, kinds, rules, {}, conditions)


def _metadata() -> Body:
    """The metadata of an MLModel is bounded; what is too large already may become smaller."""

    def annotations(source: str) -> str:
        found = _annotations_of(source)
        return f"{found}.map(k, size(bytes(k)) + size(bytes({found}[k]))).sum()"

    def number(field: str) -> Callable[[str], str]:
        return lambda source: f"size(dyn({source}.metadata).?{field}.orValue(dyn([])))"

    def bounded(count: Callable[[str], str], limit: int) -> str:
        return f"{count('object')} <= (oldObject == null ? {limit} : [{limit}, {count('oldObject')}].max())"

    own = _annotations_of("object")
    before = f"(oldObject == null ? {_NO_LABELS} : {_annotations_of('oldObject')})"
    rules = [
        Rule(
            bounded(annotations, MAX_ANNOTATIONS),
            f"the annotations have more than {MAX_ANNOTATIONS // 1024} KiB: remove the large ones with"
            " `kubectl annotate mlm NAME KEY-`",
        ),
        Rule(
            f"{own}.all(k, !k.startsWith({_text(GROUP + '/')}) || size(bytes({own}[k])) <= {MAX_OWN_ANNOTATION}"
            f" || {before}[?k] == optional.of({own}[k]))",
            f"an annotation {GROUP}/* has more than {MAX_OWN_ANNOTATION} bytes: type the value that its documentation"
            " gives",
        ),
        Rule(
            bounded(number("labels"), MAX_LABELS),
            f"{KIND} has more than {MAX_LABELS} labels: remove some with `kubectl label mlm NAME KEY-`",
        ),
        Rule(
            bounded(number("ownerReferences"), MAX_REFERENCES),
            f"{KIND} has more than {MAX_REFERENCES} owners: remove some from metadata.ownerReferences",
        ),
        Rule(
            bounded(number("finalizers"), MAX_REFERENCES),
            f"{KIND} has more than {MAX_REFERENCES} finalizers: remove some from metadata.finalizers",
        ),
        Rule(
            # Each has the names of all fields that it has set.
            bounded(number("managedFields"), MAX_MANAGERS),
            f"{KIND} has more than {MAX_MANAGERS} field managers: use one name for --field-manager, and remove the"
            " entries of others from metadata.managedFields",
        ),
    ]
    match = _match(GROUP, "*", PLURAL, operations=("CREATE", "UPDATE"))
    return _policy(METADATA, (match,), rules, {}, {})


# ------------------------------------------------------------------------------------------------------------- helpers

_CHANGED_TEMPLATE = 'request.operation == "CREATE" || object.spec.template != oldObject.spec.template'
"""A Deployment of the release before is scaled, adopted and relabelled as it is."""


def _text(value: object) -> str:
    """Return a literal of CEL, whose maps need one type for all values."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: dyn({_text(item)})" for key, item in value.items()) + "}"
    return json.dumps(value)


def _labels_of(source: str) -> str:
    return f"dyn({source}.metadata).?labels.orValue({_NO_LABELS})"


def _annotations_of(source: str) -> str:
    return f"dyn({source}.metadata).?annotations.orValue({_NO_LABELS})"


def _controllers(source: str) -> str:
    return f"dyn({source}.metadata).?ownerReferences.orValue(dyn([])).filter(o, o.?controller.orValue(false))"


def _by_operator(namespace: str) -> str:
    return f"request.userInfo.username == {_text(account(namespace))}"


def _only(source: str, path: str, fields: list[str]) -> Rule:
    return Rule(
        f"{source}.all(k, k in {_text(fields)})",
        "",
        f'"the operator does not set {path}." + {source}.filter(k, !(k in {_text(fields)})).join(", {path}.")',
    )


def _only_each(source: str, what: str, fields: list[str]) -> Rule:
    return Rule(
        f"{source}.all(c, c.all(k, k in {_text(fields)}))",
        f"{what} has a field that the operator does not set; it sets {', '.join(fields)}",
    )


def _match(group: str, version: str, *plurals: str, operations: Iterable[str] = ("CREATE", "UPDATE", "DELETE")) -> Body:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": list(operations),
        "resources": list(plurals),
    }


_WRITTEN_DEPLOYMENTS = (_match("apps", "v1", "deployments", operations=("CREATE", "UPDATE")),)


def _policy(
    name: str,
    matches: Iterable[Body],
    rules: Iterable[Rule],
    variables: Mapping[str, str],
    conditions: Mapping[str, str],
) -> Body:
    """Return a policy that rejects what it cannot evaluate."""
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name, "labels": {PART_OF_LABEL: PROJECT}},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": list(matches)},
            **({"matchConditions": _named(conditions)} if conditions else {}),
            **({"variables": _named(variables)} if variables else {}),
            "validations": [rule.body() for rule in rules],
        },
    }


def _named(expressions: Mapping[str, str]) -> list[Body]:
    return [{"name": name, "expression": expression} for name, expression in expressions.items()]


def _binding(policy: Body, namespace: str) -> Body:
    name = policy["metadata"]["name"]
    parameters = {"name": IMAGES, "namespace": namespace, "parameterNotFoundAction": "Deny"}
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {PART_OF_LABEL: PROJECT}},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            **({"paramRef": parameters} if "paramKind" in policy["spec"] else {}),
        },
    }


def _images(namespace: str, server_image: str, router_image: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": IMAGES, "namespace": namespace, "labels": {PART_OF_LABEL: PROJECT}},
        "data": {"server": server_image, "router": router_image, ROUTER_FILES: packed_files()},
    }
