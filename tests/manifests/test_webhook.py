"""The optional webhook: its manifests say what its code needs, whom it sees, and that it can do no harm."""

import tomllib
import warnings
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from schemas.annotation import ANNOTATION
from services.webhook.service.answering import PATH, VERSION
from services.webhook.service.material import SECRET
from services.webhook.service.trust import CONFIGURATION
from services.webhook.settings import Settings
from tests.manifests.manifests import (
    K8S,
    PROBES,
    ROOT,
    known_settings,
    load,
    name_of,
    objects,
    pod_of,
)

FOLDER = K8S / "components" / "webhook"
(COMPONENT,) = load(FOLDER / "kustomization.yaml")
ALL = [each for name in COMPONENT["resources"] for each in load(FOLDER / name)]
LABELS = {"app.kubernetes.io/name": "webhook", "app.kubernetes.io/part-of": "nsm"}
OPT_OUT = {"key": "networkservicemesh.io/readiness-gate", "operator": "NotIn", "values": ["false"]}


def the(kind: str) -> Any:
    (only,) = [each for each in ALL if each["kind"] == kind]
    return only


def container() -> Any:
    (only,) = pod_of(the("Deployment"))["containers"]
    return only


def environment() -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container()["env"]}


def webhook() -> Any:
    (only,) = the("MutatingWebhookConfiguration")["webhooks"]
    return only


@pytest.mark.parametrize("version", ["1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("each", ALL, ids=[name_of(each) for each in ALL])
def test_every_object_is_what_the_api_server_knows_and_nothing_more(each, version):
    with warnings.catch_warnings(action="ignore"):
        kubernetes_validate.validate(each, version, strict=True)


def test_it_is_a_component_that_lists_files():
    assert COMPONENT["kind"] == "Component"
    assert set(COMPONENT) == {"apiVersion", "kind", "resources"}


def test_everything_is_labelled_alike_and_selects_its_own_pods():
    template = the("Deployment")["spec"]["template"]
    assert template["metadata"]["labels"] == LABELS
    for each in ALL:
        assert each["metadata"]["labels"] == LABELS
    for selector in (
        the("Service")["spec"]["selector"],
        the("Deployment")["spec"]["selector"]["matchLabels"],
        the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == LABELS


def test_a_pod_can_be_made_whatever_happens_to_the_webhook():
    assert webhook()["failurePolicy"] == "Ignore"
    assert 1 <= webhook()["timeoutSeconds"] <= 3
    assert webhook()["sideEffects"] == "None"


def test_it_sees_annotated_pods_that_are_made_and_nothing_else():
    assert webhook()["rules"] == [
        {
            "operations": ["CREATE"],
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    conditions = {each["name"]: each["expression"] for each in webhook()["matchConditions"]}
    assert conditions["asks-for-network-services"] == (
        f"has(object.metadata.annotations) && '{ANNOTATION}' in object.metadata.annotations"
    )
    assert "config.mirror" in conditions["is-started-by-the-api"]


def test_it_never_sees_pods_of_the_system_and_of_who_opted_out():
    excluded, opt_out = webhook()["namespaceSelector"]["matchExpressions"]
    assert excluded["key"] == "kubernetes.io/metadata.name"
    assert excluded["operator"] == "NotIn"
    assert set(excluded["values"]) == {"kube-system", the("Deployment")["metadata"]["namespace"]}
    assert opt_out == OPT_OUT
    assert webhook()["objectSelector"]["matchExpressions"] == [OPT_OUT]
    assert f"`{OPT_OUT['key']}" in (ROOT / "docs" / "reference.md").read_text()


def test_the_api_server_finds_what_the_code_serves_under_the_name_it_is_certified_for():
    service, asked = the("Service"), webhook()["clientConfig"]["service"]
    assert webhook()["admissionReviewVersions"] == [VERSION.rpartition("/")[2]]
    assert (asked["name"], asked["path"]) == (service["metadata"]["name"], PATH)
    assert asked["namespace"] == service["metadata"]["namespace"]
    (port,) = service["spec"]["ports"]
    assert asked["port"] == port["port"]
    (listening,) = [p for p in container()["ports"] if p["name"] == port["targetPort"]]
    assert environment()["WEBHOOK_ADDRESS"] == f"$(POD_IP):{listening['containerPort']}"
    names = Settings(system_namespace=asked["namespace"]).served_names
    assert names == (f"{asked['name']}.{asked['namespace']}.svc",)


def test_nobody_is_trusted_before_the_webhook_says_whom():
    assert "caBundle" not in webhook()["clientConfig"]


def test_its_rights_are_two_objects_by_name():
    rules = [rule for each in ALL if each["kind"].endswith("Role") for rule in each["rules"]]
    assert rules == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [SECRET],
            "verbs": ["get", "update"],
        },
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": [CONFIGURATION],
            "verbs": ["get", "update"],
        },
    ]
    account = the("ServiceAccount")["metadata"]
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        assert the(kind)["subjects"] == [
            {
                "kind": "ServiceAccount",
                "name": account["name"],
                "namespace": account["namespace"],
            }
        ]
    assert pod_of(the("Deployment"))["serviceAccountName"] == account["name"]
    assert the("MutatingWebhookConfiguration")["metadata"]["name"] == CONFIGURATION


def test_its_secret_is_applied_for_it_empty_and_of_no_type_that_the_cluster_fills():
    """Who may create a Secret of a name that he may read can have it filled with any ServiceAccount's token."""
    secret = the("Secret")
    assert secret["metadata"]["name"] == SECRET
    assert secret["type"] == "Opaque"
    assert not {"data", "stringData", "immutable"} & set(secret), (
        "applied anew, it keeps what is there"
    )


def test_variables_are_settings_and_the_image_is_that_of_the_project():
    given = {each for each in environment() if each != "POD_IP"}
    assert given <= set(known_settings("webhook"))
    assert environment()["NSM_HEALTH_ADDRESS"] == "$(POD_IP):8080"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container()["image"] == f"nsm-on-nats:{version}"
    assert container()["args"] == ["services.webhook"]
    for probe, path in PROBES.items():
        assert container()[probe]["httpGet"] == {"path": path, "port": "health"}


def test_a_replica_is_always_there_while_others_change():
    spec = the("Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    stopping = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert stopping < pod_of(the("Deployment"))["terminationGracePeriodSeconds"]


def test_it_runs_as_nobody_and_writes_nowhere():
    assert pod_of(the("Deployment"))["securityContext"]["runAsNonRoot"]
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumes" not in pod_of(the("Deployment"))


def test_its_network_policy_lets_in_whoever_asks_and_the_cluster_reads_its_figures():
    asked, figures = the("NetworkPolicy")["spec"]["ingress"]
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    assert asked == {"ports": [{"port": ports["webhook"], "protocol": "TCP"}]}
    assert figures["ports"] == [{"port": ports["health"], "protocol": "TCP"}]
    assert figures["from"] == [{"namespaceSelector": {}}]


def test_prometheus_finds_it_as_it_finds_the_other_services():
    (auth,) = [
        each
        for each in load(K8S / "components/metrics/annotations.yaml")
        if each["metadata"]["name"] == "auth"
    ]
    announced = auth["spec"]["template"]["metadata"]["annotations"]
    assert the("Deployment")["spec"]["template"]["metadata"]["annotations"] == announced
    (health,) = [each for each in container()["ports"] if each["name"] == "health"]
    assert announced["prometheus.io/port"] == str(health["containerPort"])


def test_with_it_only_the_install_job_may_create_secrets():
    creating = {
        each["metadata"]["name"]
        for each in [*objects(), *ALL]
        if each["kind"] in {"Role", "ClusterRole"}
        for rule in each["rules"]
        if {"secrets", "*"} & set(rule.get("resources", []))
        and {"create", "*"} & set(rule["verbs"])
    }
    assert creating == {"nsm-install"}


def test_the_component_is_the_one_that_the_log_recommends():
    source = "".join(p.read_text() for p in (ROOT / "services" / "webhook").rglob("*.py"))
    assert f"apply {FOLDER.relative_to(ROOT)}" in source
