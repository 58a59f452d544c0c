"""The image, compose and the scripts around them: well formed, and about things that exist."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.manifests.manifests import ROOT, found, known_settings
from tools import install_definitions

BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SCRIPTS = sorted(
    path
    for folder in ("compose", "tools", ".ci", "k8s")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!")
)


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def locked(name):
    """Package: everything that stands about it in a lock file."""
    text = (ROOT / name).read_text()
    return {
        entry.partition("==")[0]: entry for entry in re.split(r"\n(?=[a-z])", text.strip()) if entry
    }


def package(requirement):
    return found(r"^[A-Za-z0-9-]+", requirement)[0].lower()


def copied():
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        yield from line.split()[:-1]


def test_the_dockerfile_is_as_hadolint_wants_it():
    checked = run(str(BIN / "hadolint"), "Dockerfile")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_as_shellcheck_wants_them(script):
    checked = run(str(BIN / "shellcheck"), str(script))
    assert checked.returncode == 0, checked.stdout
    assert script.stat().st_mode & 0o111, "executable"


def test_compose_is_what_the_specification_knows():
    checked = run(
        str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml"
    )
    assert checked.returncode == 0, checked.stdout


def test_the_image_gets_only_what_exists_and_what_the_context_has():
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert set(copied()) == allowed
    for name in allowed:
        assert (ROOT / name).exists(), name


def test_the_image_has_the_projects_packages_and_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied())
    assert f"ARG VERSION={project['project']['version']}\n" in DOCKERFILE


def test_both_stages_are_one_pinned_python_that_the_project_supports():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    (base,) = set(bases)
    version = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-[a-z]+", base)
    assert version
    assert int(version[1]) >= 11


def test_the_image_runs_as_nobody_in_particular():
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["65532:65532"]
    assert DOCKERFILE.rindex("USER") < DOCKERFILE.index("ENTRYPOINT")


@pytest.mark.parametrize("name", ["requirements-runtime.lock", "requirements-build.lock"])
def test_the_image_is_made_of_the_versions_that_are_tested(name):
    everything = locked("requirements.lock")
    part = locked(name)
    for package, entry in part.items():
        if package in everything:
            assert entry == everything[package], f"{package}: make lock"
        else:
            assert package == "tomlkit", "only what no test needs may stand here alone"


def test_the_image_has_every_dependency_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {package(each) for each in project["project"]["dependencies"]}
    part = locked("requirements-runtime.lock")
    assert wanted <= set(part)
    development = {package(each) for each in project["project"]["optional-dependencies"]["dev"]}
    assert not development & set(part)


def test_the_build_needs_what_is_locked_for_it():
    for_all = [each for each in importlib.metadata.requires("hatchling") or () if ";" not in each]
    wanted = {package(each) for each in for_all}
    assert wanted | {"hatchling", "editables"} <= set(locked("requirements-build.lock"))


@pytest.mark.parametrize("name", [each for each in COMPOSE if each in {"auth", "watcher", "ipam"}])
def test_variables_of_compose_are_settings(name):
    known, given = known_settings(name), COMPOSE[name]["environment"]
    assert set(given) <= set(known)
    assert {each for each, required in known.items() if required} <= set(given)
    assert COMPOSE[name]["command"] == [f"services.{name}"]


def test_compose_asks_each_service_whether_it_is_ready_at_an_address_of_its_own():
    services = [COMPOSE[name] for name in ("auth", "watcher", "ipam")]
    assert len({each["environment"]["NSM_HEALTH_ADDRESS"] for each in services}) == len(services)
    for each in services:
        assert "NSM_HEALTH_ADDRESS" in each["healthcheck"]["test"][-1]


def test_the_image_is_made_without_what_notes_the_hour_of_its_build():
    """Two builds have the same files: bytecode by hash, none that pip wrote, no day in /etc/shadow."""
    assert "PYTHONDONTWRITEBYTECODE=1" in found(r"FROM[^\n]+ AS build\n+(ENV.*)", DOCKERFILE)[0]
    installs = re.findall(r"--python \S+ install \\\n(.*)", DOCKERFILE)
    assert len(installs) == 2
    assert all("--no-compile" in each for each in installs)
    assert "compileall -q --invalidation-mode checked-hash /opt/venv/lib /app" in DOCKERFILE
    assert not re.search(r"^[^#]*useradd", DOCKERFILE, re.MULTILINE)


def test_what_compose_mounts_from_the_tree_exists():
    for name, service in COMPOSE.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            # Made by compose/tokens.sh; the other one is named by the developer.
            if source.startswith("./") and source != "./compose/.tokens":
                assert (ROOT / source).exists(), f"{name}: {source}"


def test_compose_and_the_cluster_give_the_bus_the_same_room():
    from tests.manifests.manifests import one

    block = r"(?s)jetstream \{.*?\}"
    texts = [
        (ROOT / "compose/nats.conf").read_text(),
        one("ConfigMap", "nsm-nats")["data"]["nats.conf"],
    ]
    settings = [
        [line.strip() for line in found(block, text)[0].splitlines() if "#" not in line]
        for text in texts
    ]
    assert settings[0] == settings[1]


def test_compose_test_says_what_is_missing_where_there_is_no_engine(tmp_path):
    for name in ("sh", "dirname", "env"):
        (tmp_path / name).symlink_to(
            Path("/bin") / name if name == "sh" else Path("/usr/bin") / name
        )
    tried = subprocess.run(
        ["/bin/sh", str(ROOT / "tools/compose-test.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 3
    assert "install Docker Engine" in tried.stderr


def test_developers_definitions_are_of_the_field_manager_that_install_takes_for_ours():
    script = (ROOT / "compose/tokens.sh").read_text()
    applied = re.findall(r"(?m)^kubectl apply.*", script)
    assert len(applied) == 1
    assert f"--server-side --field-manager={install_definitions.MANAGER} " in applied[0]
