"""k8s/ says what the code needs and does: schemas, names, settings, rights, volumes."""

import re
import shutil
import subprocess
import tomllib
import warnings
from datetime import timedelta

import kubernetes_validate  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml

from services.plumber.settings import Settings as PlumberSettings
from services.watcher.service import resources
from tests.manifests import manifests
from tests.manifests.manifests import (
    PROBES,
    ROOT,
    SERVICES,
    found,
    name_of,
    objects,
    one,
    pod_of,
    rendered,
    template_of,
    workload_of,
)
from tools import install_certificates, install_definitions, install_keys

SYSTEM = "nsm-system"
TOKEN_FILE = "/var/run/secrets/nats.nsm/token"
CLUSTER_WIDE = {
    "Namespace",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
}
METRICS = manifests.K8S / "components/metrics"
OVERLAYS = [manifests.K8S / name for name in (".", "overlays/kind", "overlays/production")]
NODE_SERVICES = ("plumber", "dns")
ALL = objects()
WORKLOADS = manifests.workloads()
IDS = [name_of(each) for each in ALL]
WORKLOAD_IDS = [name_of(each) for each in WORKLOADS]


def container_of(workload):
    """The one that does the work: it is the first."""
    return pod_of(workload)["containers"][0]


def environment(workload):
    return {each["name"]: each for each in container_of(workload).get("env", [])}


def mounts(workload):
    """Path in the container: (volume, mount)."""
    volumes = {each["name"]: each for each in pod_of(workload).get("volumes", [])}
    for template in workload["spec"].get("volumeClaimTemplates", []):
        volumes[template["metadata"]["name"]] = template
    everybody = [m for each in pod_of(workload)["containers"] for m in each.get("volumeMounts", [])]
    assert {each["name"] for each in everybody} == set(volumes), "every volume is there and mounted"
    used = container_of(workload).get("volumeMounts", [])
    return {each["mountPath"]: (volumes[each["name"]], each) for each in used}


@pytest.mark.parametrize("version", ["1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("each", [*ALL, *manifests.definitions()], ids=name_of)
def test_every_object_is_what_the_api_server_knows_and_nothing_more(each, version):
    with warnings.catch_warnings(action="ignore"):
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.parametrize("metrics", [False, True], ids=["plain", "metrics"])
def test_every_overlay_is_what_the_api_server_knows_and_nothing_more(folder, metrics):
    everything = rendered(folder)
    if metrics:
        everything = manifests.with_component(everything, METRICS)
    for each in everything:
        if each not in ALL:  # those have their own test
            with warnings.catch_warnings(action="ignore"):
                kubernetes_validate.validate(each, "1.33", strict=True)
    names = [name_of(each) for each in everything]
    assert len(set(names)) == len(names)
    assert set(IDS) <= set(names), "an overlay adds to the base and takes nothing away"


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_what_is_rendered_here_is_what_kubectl_renders(folder):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here: what it renders is compared where there is one")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, check=True)
    theirs = {name_of(each): in_any_order(each) for each in yaml.safe_load_all(done.stdout)}
    assert theirs == {name_of(each): in_any_order(each) for each in rendered(folder)}


def in_any_order(node):
    """What a patch adds to a list of named things, kustomize puts first and a strategic merge last."""
    if isinstance(node, dict):
        return {name: in_any_order(value) for name, value in node.items()}
    if isinstance(node, list) and all(isinstance(each, dict) and "name" in each for each in node):
        return {each["name"]: in_any_order(each) for each in node}
    return node


def test_kustomizations_use_no_more_than_what_is_rendered_here():
    known = {"apiVersion", "kind", "resources", "components", "patches"}
    for path in manifests.K8S.rglob("kustomization.yaml"):
        (listed,) = manifests.load(path)
        assert set(listed) <= known, path
        assert all(set(patch) == {"path"} for patch in listed.get("patches", []))


def test_every_file_is_applied_once():
    used = [path.resolve() for path in (manifests.K8S / "base/crds").glob("*.yaml")]  # by the Job
    for path in manifests.K8S.rglob("kustomization.yaml"):
        (listed,) = manifests.load(path)
        names = listed.get("resources", []) + [each["path"] for each in listed.get("patches", [])]
        used += [(path.parent / name).resolve() for name in names if name.endswith(".yaml")]
    written = {p.resolve() for p in manifests.K8S.rglob("*.yaml") if p.name != "kustomization.yaml"}
    assert set(used) == written
    assert len(used) == len(written)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("each", ALL, ids=IDS)
def test_every_object_says_where_it_belongs(each):
    metadata = each["metadata"]
    if each["kind"] in CLUSTER_WIDE:
        assert "namespace" not in metadata
    else:
        assert metadata["namespace"] in {SYSTEM, "kube-system"}
    assert metadata["labels"]["app.kubernetes.io/part-of"] == "nsm"


@pytest.mark.parametrize("workload", WORKLOADS, ids=WORKLOAD_IDS)
def test_selectors_select_their_own_pods(workload):
    labels = template_of(workload)["metadata"]["labels"]
    assert labels == workload["metadata"]["labels"]
    if workload["kind"] not in {"Job", "CronJob"}:
        assert workload["spec"]["selector"]["matchLabels"] == labels
    for each in pod_of(workload).get("topologySpreadConstraints", []):
        assert each["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "Service"])
def test_whatever_selects_pods_finds_some(kind):
    pods = [template_of(each)["metadata"]["labels"] for each in WORKLOADS]
    for each in objects(kind):
        selector = each["spec"]["selector"]
        assert selector.get("matchLabels", selector) in pods


def test_no_drain_waits_for_a_pod_that_is_not_ready_but_the_quorums():
    whole = manifests.with_component(rendered(OVERLAYS[-1]), manifests.K8S / "components/webhook")
    policies = {
        each["metadata"]["name"]: each["spec"].get("unhealthyPodEvictionPolicy")
        for each in whole
        if each["kind"] == "PodDisruptionBudget"
    }
    evicted = dict.fromkeys(("auth", "watcher", "ipam", "webhook"), "AlwaysAllow")
    assert policies == {**evicted, "nats": None}


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_nothing_is_written_other_than_the_api_server_writes_it(folder):
    """Else every apply says `configured`."""
    for each in rendered(folder):
        assert not re.search(r"'\d+000'", str(each)), f"{name_of(each)}: a quantity, say 1M"
        assert "imagePullPolicy" not in str(each), "IfNotPresent is what a tag gets"


@pytest.mark.parametrize("workload", WORKLOADS, ids=WORKLOAD_IDS)
def test_there_is_one_image_and_it_has_the_projects_version(workload):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for each in pod_of(workload)["containers"]:
        assert each["image"] == f"nsm-on-nats:{version}"


@pytest.mark.parametrize("workload", WORKLOADS, ids=WORKLOAD_IDS)
def test_who_runs_is_a_service_account_of_ours(workload):
    name = pod_of(workload)["serviceAccountName"]
    account = one("ServiceAccount", name)
    installs = {"nsm-install", "nsm-certificates"}
    called = workload["metadata"]["name"]
    assert name == ("nsm-install" if called in installs else f"nsm-{called}")
    assert account["automountServiceAccountToken"] is False


def test_only_who_speaks_with_the_api_server_has_its_token():
    mounted = {
        each["metadata"]["name"]
        for each in WORKLOADS
        if pod_of(each)["automountServiceAccountToken"]
    }
    assert mounted == {"auth", "watcher", "nsm-install", "nsm-certificates"}


@pytest.mark.parametrize("role", ["watcher", "ipam", "plumber", "dns", "viewer", "admin"])
def test_every_role_of_the_bus_has_its_service_account(role):
    assert one("ServiceAccount", f"nsm-{role}")["metadata"]["namespace"] == SYSTEM


@pytest.mark.parametrize("service", SERVICES)
def test_variables_are_settings_of_the_service_and_none_that_it_needs_is_missing(service):
    given = environment(workload_of(service))
    known = manifests.known_settings(service)
    referred = set(re.findall(r"\$\((\w+)\)", str(given)))
    assert set(given) - referred <= set(known)
    assert {name for name, required in known.items() if required} <= set(given)


@pytest.mark.parametrize("service", SERVICES)
def test_the_service_is_started_by_its_module(service):
    assert container_of(workload_of(service))["args"] == [f"services.{service}"]
    assert (ROOT / "services" / service / "__main__.py").exists()


@pytest.mark.parametrize("service", [each for each in SERVICES if each != "auth"])
def test_a_login_at_the_bus_is_a_projected_token_for_it_alone(service):
    workload = workload_of(service)
    assert environment(workload)["NSM_TOKEN_FILE"]["value"] == TOKEN_FILE
    volume, mount = mounts(workload)[TOKEN_FILE.rpartition("/")[0]]
    source, authority = volume["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "audience": "nats.nsm",
        "expirationSeconds": 3600,
        "path": "token",
    }
    assert authority == {"configMap": {"name": install_certificates.CA_MAP}}
    assert mount["readOnly"]


@pytest.mark.parametrize("service", SERVICES)
def test_the_bus_is_believed_by_the_authority_that_install_makes(service):
    workload = workload_of(service)
    folder, _, name = environment(workload)["NSM_TLS_CA"]["value"].rpartition("/")
    assert name == install_certificates.CA
    volume, _ = mounts(workload)[folder]
    sources = volume.get("projected", {}).get("sources") or [volume]
    assert {"name": install_certificates.CA_MAP} in [each.get("configMap") for each in sources]
    url = environment(workload)["NSM_NATS_URL"]["value"]
    host = found(r"//([^:]+):", url)[1]
    assert host in install_certificates.names(SYSTEM)


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_the_port_where_health_is_served(service):
    container = container_of(workload_of(service))
    (port,) = container["ports"]
    address = environment(workload_of(service))["NSM_HEALTH_ADDRESS"]["value"]
    assert address == f"$(POD_IP):{port['containerPort']}"
    for probe, path in PROBES.items():
        asked = container[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, port["name"])


def test_services_on_the_nodes_network_have_ports_of_their_own():
    ports = [container_of(workload_of(each))["ports"][0]["hostPort"] for each in NODE_SERVICES]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("service", SERVICES)
def test_the_bus_is_found_by_the_name_of_its_service(service):
    url = environment(workload_of(service))["NSM_NATS_URL"]["value"]
    kube_service = one("Service", "nats", SYSTEM)
    assert url == f"nats://nats.{SYSTEM}.svc:{kube_service['spec']['ports'][0]['port']}"
    if pod_of(workload_of(service)).get("hostNetwork"):
        assert pod_of(workload_of(service))["dnsPolicy"] == "ClusterFirstWithHostNet"


@pytest.mark.parametrize("service", ["watcher", "ipam"])
def test_leaders_hold_their_lease_by_the_pods_name(service):
    holder = environment(workload_of(service))["NSM_HOLDER"]
    assert holder["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert workload_of(service)["spec"]["replicas"] == 2


@pytest.mark.parametrize("service", NODE_SERVICES)
def test_node_services_run_on_every_node_with_the_nodes_places(service):
    workload = workload_of(service)
    assert workload["kind"] == "DaemonSet"
    assert pod_of(workload)["tolerations"] == [{"operator": "Exists"}]
    assert pod_of(workload)["hostNetwork"]
    node = environment(workload)[f"{service.upper()}_NODE"]
    assert node["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    defaults = msgspec.structs.asdict(PlumberSettings(node="n"))
    for path in (defaults["cni_results"], defaults["runtime_dir"], "/run/netns"):
        volume, _ = mounts(workload)[path]
        assert volume["hostPath"] == {"path": path, "type": "DirectoryOrCreate"}
    # Pods that no CNI result names are sought among the node's processes.
    assert pod_of(workload)["hostPID"]
    assert mounts(workload)[defaults["cgroups"]][0]["hostPath"]["type"] == "Directory"
    # Else an ended Pod's namespace would live on in here.
    assert mounts(workload)["/run/netns"][1]["mountPropagation"] == "HostToContainer"


@pytest.mark.parametrize("service", NODE_SERVICES)
def test_node_services_may_what_they_do_and_nothing_more(service):
    """That each of these is needed, and all together are enough, is for test_service_confined.py of each."""
    security = container_of(workload_of(service))["securityContext"]
    more = ["NET_BROADCAST"] if service == "plumber" else []
    assert security["capabilities"] == {
        "drop": ["ALL"],
        "add": ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW", *more],
    }
    assert not security["allowPrivilegeEscalation"]
    assert "privileged" not in security
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_plumber_may_write_the_settings_of_networks_and_none_else_of_the_node():
    workload = workload_of("plumber")
    volume, mount = mounts(workload)[environment(workload)["PLUMBER_SYSCTLS"]["value"]]
    assert volume["hostPath"] == {"path": "/proc/sys/net", "type": "Directory"}
    assert not mount.get("readOnly")
    writable = [path for path, (_, m) in mounts(workload).items() if not m.get("readOnly")]
    assert sorted(writable) == ["/host/proc/sys/net", "/run/nsm"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=WORKLOAD_IDS)
def test_only_node_services_are_more_than_ordinary(workload):
    pod = pod_of(workload)
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
    if workload["metadata"]["name"] in NODE_SERVICES:
        return
    for container in pod["containers"]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.get("hostNetwork")
    assert not [each for each in pod.get("volumes", []) if "hostPath" in each]


def rules_of(service_account):
    """(namespace or "", rule) of everything bound to it."""
    for binding in [*objects("ClusterRoleBinding"), *objects("RoleBinding")]:
        if any(each["name"] == service_account for each in binding["subjects"]):
            namespace = binding["metadata"].get("namespace", "")
            role = one(binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace)
            yield from ((namespace, rule) for rule in role["rules"])


def allows(service_account, verb, resource, *, group="", namespace="", name=""):
    return any(
        verb in rule["verbs"]
        and group in rule.get("apiGroups", [])
        and resource in rule.get("resources", [])
        and where in {"", namespace}
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for where, rule in rules_of(service_account)
    )


def read_path(path):
    """group, namespace, plural of a path of the API."""
    parts = found(r"^/(?:api|apis/([^/]+))/v1(?:/namespaces/([^/]+))?/([a-z]+)$", path)
    return parts[1] or "", parts[2] or "", parts[3]


@pytest.mark.parametrize("resource", resources(SYSTEM), ids=lambda each: each.title)
def test_the_watcher_may_list_and_watch_what_it_follows(resource):
    group, namespace, plural = read_path(resource.path)
    for verb in ("list", "watch"):
        assert allows(
            "nsm-watcher", verb, plural, group=group, namespace=namespace, name=resource.name
        )


def test_the_watcher_may_do_what_it_does_and_reads_nothing_else():
    for verb, resource in (
        ("patch", "pods/status"),
        ("create", "events"),
        ("get", "events"),
        ("patch", "events"),
    ):
        assert allows("nsm-watcher", verb, resource, namespace="any")
    assert not allows("nsm-watcher", "patch", "pods", namespace="any")
    for kind in ("networkservices", "networkserviceendpoints"):
        assert allows(
            "nsm-watcher", "patch", f"{kind}/status", group="networkservicemesh.io", namespace="any"
        )
        assert not allows(
            "nsm-watcher", "patch", kind, group="networkservicemesh.io", namespace="any"
        )
    followed = {read_path(each.path)[2] for each in resources(SYSTEM)}
    given = {
        (verb, resource)
        for _, rule in rules_of("nsm-watcher")
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert {r for verb, r in given if verb in {"list", "watch"}} == followed
    assert not {verb for verb, _ in given} & {"delete", "update", "*"}
    assert not allows("nsm-watcher", "list", "configmaps", namespace=SYSTEM, name="another")


def test_auth_may_review_tokens_and_nothing_else():
    rules = [rule for _, rule in rules_of("nsm-auth")]
    assert rules == [
        {
            "apiGroups": ["authentication.k8s.io"],
            "resources": ["tokenreviews"],
            "verbs": ["create"],
        },
        {
            "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"],
            "verbs": ["get"],
        },
    ]


@pytest.mark.parametrize("role", ["ipam", "plumber", "dns", "nats", "viewer", "admin"])
def test_who_speaks_with_the_bus_only_has_no_right_at_the_api_server(role):
    assert not list(rules_of(f"nsm-{role}"))


def test_install_may_make_its_objects_and_read_no_other():
    account = "nsm-install"
    secrets = {install_certificates.CA_SECRET, install_certificates.TLS_SECRET}
    maps = {install_keys.CONFIG_MAP, install_certificates.CA_MAP}
    for plural, names in (("secrets", {*secrets, install_keys.SECRET}), ("configmaps", maps)):
        for name in names:
            assert allows(account, "create", plural, namespace=SYSTEM, name=name)
            assert allows(account, "get", plural, namespace=SYSTEM, name=name)
        assert not allows(account, "get", plural, namespace=SYSTEM, name="another")
    for plural, names in (("secrets", secrets), ("configmaps", maps)):
        for name in names:
            assert allows(account, "patch", plural, namespace=SYSTEM, name=name)
    assert not allows(account, "patch", "secrets", namespace=SYSTEM, name=install_keys.SECRET)
    assert allows(account, "create", "events", namespace=SYSTEM)


def test_install_may_apply_our_definitions_and_no_other():
    plural, group = "customresourcedefinitions", "apiextensions.k8s.io"
    for each in manifests.definitions():
        name = each["metadata"]["name"]
        for verb in ("create", "patch"):
            assert allows("nsm-install", verb, plural, group=group, name=name)
    for verb in ("create", "patch", "get", "delete"):
        assert not allows("nsm-install", verb, plural, group=group, name="others.example.org")
    assert install_definitions.DEFINITIONS == manifests.K8S / "base/crds"


@pytest.mark.parametrize("name", ["nsm-install", "nsm-certificates"])
def test_what_a_failed_job_said_can_be_read_for_hours(name):
    """A Pod with restartPolicy OnFailure goes with its Job's failure."""
    workload = workload_of(name)
    assert pod_of(workload)["restartPolicy"] == "Never"
    if workload["kind"] == "Job":
        assert workload["spec"]["ttlSecondsAfterFinished"] >= 8 * 3600


DOCS = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), manifests.K8S / "README.md"]


def test_a_removal_does_not_stop_at_the_job_that_went_by_itself():
    told = [
        (page.name, line)
        for page in DOCS
        for line in page.read_text().splitlines()
        if re.search(r"^kubectl delete -[kf]|`kubectl delete -[kf]", line)
    ]
    assert told
    assert [each for each in told if "--ignore-not-found" not in each[1]] == []


def test_before_an_upgrade_is_applied_the_job_is_deleted_and_after_one_to_three_servers_the_first():
    upgrade = found(r"(?s)\n## Upgrade\n(.*?)\n## ", (ROOT / "docs/operations.md").read_text())[1]
    blocks = re.findall(r"(?s)```\n(.*?)```", upgrade)
    assert len(blocks) == 3
    for block in blocks:
        assert block.startswith("kubectl -n nsm-system delete job nsm-install --ignore-not-found")
        assert block.index("delete job") < block.index("kubectl apply -k")
    for block in blocks[1:]:
        assert block.index("kubectl apply -k") < block.index("delete pod nats-0")


def test_every_right_is_told():
    told = (ROOT / "docs/security.md").read_text()
    roles = [*objects("ClusterRole"), *objects("Role")]
    assert [each for each in roles if f"`{each['metadata']['name']}`" not in told] == []
    assert [a for a in objects("ServiceAccount") if f"`{a['metadata']['name']}`" not in told] == []


def test_install_says_whose_events_are_and_the_certificates_are_looked_at_each_day():
    job = one("Job", "nsm-install")
    path = environment(job)["JOB_UID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['batch.kubernetes.io/controller-uid']"
    assert container_of(job)["args"] == ["tools.install"]
    cron = one("CronJob", "nsm-certificates")
    assert container_of(cron)["args"] == ["tools.install", "certificates"]
    # Each night takes a step of a rotation, however late its Pod, or that of the night before, has started.
    assert re.fullmatch(r"\d+ \d+ \* \* \*", cron["spec"]["schedule"])
    assert timedelta(days=1) - timedelta(hours=1) >= install_certificates.OVERLAP


@pytest.mark.parametrize(
    "secret", [install_certificates.CA_SECRET, install_certificates.TLS_SECRET]
)
def test_only_the_bus_mounts_its_certificate_and_nobody_the_authoritys_key(secret):
    holders = [each["metadata"]["name"] for each in WORKLOADS if f"'{secret}'" in secrets_of(each)]
    assert holders == (["nats"] if secret == install_certificates.TLS_SECRET else [])


def secrets_of(workload):
    """All that its volumes name, in Secrets."""
    volumes = pod_of(workload).get("volumes", [])
    plain = [each["secret"] for each in volumes if "secret" in each]
    projected = [
        source["secret"]
        for each in volumes
        for source in each.get("projected", {}).get("sources", [])
        if "secret" in source
    ]
    return str([*plain, *projected])


def test_only_auth_and_nobody_else_mounts_the_keys():
    holders = [
        each["metadata"]["name"] for each in WORKLOADS if install_keys.SECRET in str(pod_of(each))
    ]
    assert holders == ["auth"]
    keys = environment(workload_of("auth"))["AUTH_KEYS_FILE"]["value"]
    directory, _, name = keys.rpartition("/")
    assert name == install_keys.KEYS
    volume, _ = mounts(workload_of("auth"))[directory]
    assert volume["secret"]["secretName"] == install_keys.SECRET


def test_nats_reads_what_install_makes():
    (server,) = [each for each in WORKLOADS if each["kind"] == "StatefulSet"]
    volume, _ = mounts(server)["/etc/nats"]
    sources = volume["projected"]["sources"]
    maps = [each["configMap"]["name"] for each in sources if "configMap" in each]
    assert maps == ["nsm-nats", install_keys.CONFIG_MAP]
    (secret,) = [each["secret"]["name"] for each in sources if "secret" in each]
    assert secret == install_certificates.TLS_SECRET
    module, configuration, store = container_of(server)["args"]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
    assert {configuration, store} <= mounts(server).keys()
    settings = one("ConfigMap", "nsm-nats")["data"]["nats.conf"]
    assert f'store_dir: "{store}"' in settings


def test_a_changed_file_of_nats_is_told_to_it():
    pod = pod_of(one("StatefulSet", "nats"))
    _, reload = pod["containers"]
    module, folder, memory = reload["args"]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
    places = {each["mountPath"]: each["name"] for each in reload["volumeMounts"]}
    assert places[folder] == "config"
    assert memory.startswith(tuple(places))
    assert pod["shareProcessNamespace"], "else it sees no server to tell"


def test_the_disk_of_nats_holds_what_the_streams_reserve():
    from services._runtime.streams import configs

    text = one("ConfigMap", "nsm-nats")["data"]["nats.conf"]
    assert {each["storage"] for each in configs(1)} == {"file"}
    reserved = sum(each["max_bytes"] for each in configs(1))
    assert reserved < int(found(r"max_file_store: (\d+)GB", text)[1]) * 10**9 < 4 * 2**30
    (claim,) = one("StatefulSet", "nats")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "4Gi"
