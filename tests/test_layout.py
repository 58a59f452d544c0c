"""The shape of the tree: what keeps prose and code from drifting apart."""

import ast
import itertools
import re
import subprocess
from pathlib import Path

import pytest

from schemas import reasons, subjects

ROOT = Path(__file__).parent.parent
SERVICES = ["watcher", "ipam", "plumber", "dns", "auth", "webhook"]
PACKAGES = ["schemas", "services", "lab", "cli"]
SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def _exists(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service):
    folder = ROOT / "services" / service
    for name in ("__main__", "settings", "model", "core", "adapters", "service"):
        assert _exists(folder, name), f"services/{service} has no {name}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_says_what_it_owns_reads_writes_and_promises(service):
    text = (ROOT / "services" / service / "__init__.py").read_text()
    for word in ("owns", "reads", "writes", "promises"):
        assert f"\n{word}" in text, f"services/{service}/__init__.py does not say what it {word}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_main_is_short(service):
    text = (ROOT / "services" / service / "__main__.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_tests_of_its_core_and_of_the_whole(service):
    names = {p.stem for p in (ROOT / "tests" / service).rglob("test_*.py")}
    assert any(name.startswith("test_core") for name in names)
    assert any(name.startswith("test_service") for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_its_rule_or_promise(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_outgrows_its_reader(path):
    assert len(path.read_text().splitlines()) <= 400, "split it, along its own sections"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_subject_is_spelled_outside_its_module(path):
    if path.name == "subjects.py":
        return
    kinds = tuple(f"nsm.{kind}." for kind in subjects.KEYS)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(kinds), f"line {node.lineno}: build it from its key"


@pytest.mark.parametrize("kind", sorted(subjects.KEYS))
def test_every_subject_stands_in_the_architecture(kind):
    assert f"`nsm.{kind}." in (ROOT / "ARCHITECTURE.md").read_text()


NO_REASONS = {
    # CamelCase text that is no reason: kinds, Kubernetes' operators, names of the code.
    *(
        "AdmissionReview",
        "BearerToken",
        "ClusterFirst",
        "ClusterConfiguration",
        "ConfigMap",
        "DoesNotExist",
        "IgnoreUnknown",
        "LinkError",
        "NameTaken",
        "NoCluster",
        "NoServers",
    ),
    *("NetworkService", "NetworkServiceEndpoint", "NotIn", "StructType", "TokenReview"),
}


def test_every_reason_says_what_it_means_and_what_to_do():
    known = reasons.OBJECTS.keys() | reasons.LOGINS.keys()
    reason = re.compile(r"(?:[A-Z][a-z]+){2,}|Connected|Connecting|Disconnected|Updating")
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if reason.fullmatch(node.value) and node.value not in NO_REASONS:
                assert node.value in known, f"schemas/reasons.py lacks {node.value} ({path})"


def test_a_reason_that_has_a_constant_is_written_by_it():
    named = {value for name, value in vars(reasons).items() if name.isupper() if type(value) is str}
    assert named
    for path in (ROOT / "services").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in named, f"{path}: import {node.value} from schemas.reasons"


def _anchors(page: Path) -> set[str]:
    """What its headings are called by links, as GitHub names them."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    found: set[str] = set()
    for heading in re.findall(r"(?m)^#+ +(.+?)\s*$", text):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = (f"{name}-{number}" for number in itertools.count(1))
        found.add(name if name not in found else next(each for each in again if each not in found))
    return found


def test_no_file_keeps_the_marks_of_a_merge():
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    marked = re.compile(rb"^(<<<<<<<|>>>>>>>) ", re.MULTILINE)
    assert not [n for n in names if (ROOT / n).is_file() and marked.search((ROOT / n).read_bytes())]


def test_every_relative_link_of_the_docs_leads_somewhere():
    folders = [ROOT / name for name in ("docs", "k8s", "bench", "examples")]
    for page in [*ROOT.glob("*.md"), *(each for top in folders for each in top.rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text()):
            if "://" in target:
                continue
            said = f"{page.relative_to(ROOT)} links to {target}"
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), said
            assert not anchor or anchor in _anchors(linked), said
