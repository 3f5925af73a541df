"""The container files: lint, and agreement with the code that they start. No engine is needed."""

from __future__ import annotations

import fnmatch
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli.stack import PORTS
from param_server.access import ENCODER, SCORER
from param_server.settings import AccessSettings, StoreSettings
from realtime_infer.app import DOOR_HTTP_PORT, ENCODER_HTTP_PORT, SINK_HTTP_PORT, WORKER_HTTP_PORT
from realtime_infer.encode_rpc import ENCODER_GRPC_PORT
from realtime_infer.rpc import DOOR_GRPC_PORT
from realtime_infer.settings import EncoderSettings
from realtime_infer.sink_settings import SinkSettings
from serving.encode_settings import EncodeSettings
from serving.settings import ScorerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
yaml: Any = importlib.import_module("yaml")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = ("scorer", "door", "encoder", "worker", "sink")
HTTP_PORTS = {
    "scorer": 8080,
    "door": DOOR_HTTP_PORT,
    "encoder": ENCODER_HTTP_PORT,
    "worker": WORKER_HTTP_PORT,
    "sink": SINK_HTTP_PORT,
}
GRPC_PORTS = {"scorer": 50051, "door": DOOR_GRPC_PORT, "encoder": ENCODER_GRPC_PORT}


def program(name: str) -> str:
    """The path of a checker, beside this Python or on PATH; skips where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compose_command() -> list[str]:
    if found := shutil.which("docker-compose"):
        return [found]
    docker = program("docker")
    plugin = subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60, check=False)
    if plugin.returncode:
        pytest.skip("neither docker-compose nor the compose plugin of docker is installed")
    return [docker, "compose"]


def stage(name: str) -> str:
    """The text of one stage of the Dockerfile."""
    match = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert match is not None, name
    return match[1]


def test_hadolint_is_content() -> None:
    assert check(program("hadolint"), "deploy/Dockerfile") == ""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.acl.yaml"])
def test_yamllint_is_content(name: str) -> None:
    assert check(program("yamllint"), "--strict", f"deploy/{name}") == ""


def test_with_users_each_process_has_its_own() -> None:
    services = yaml.safe_load((DEPLOY / "compose.acl.yaml").read_text())["services"]
    assert set(services) == {"valkey", *SERVICES}
    command, (mounted,) = services["valkey"]["command"], services["valkey"]["volumes"]
    assert (
        command[: len(COMPOSE["services"]["valkey"]["command"])] == COMPOSE["services"]["valkey"]["command"]
    )
    assert command[command.index("--aclfile") + 1] == mounted.split(":")[1]
    for name in SERVICES:
        role = SCORER if name == "scorer" else ENCODER
        text = services[name]["environment"]["REPCENTER_REDIS_URL"]
        assert ":?}" in text  # compose stops where the password is not set
        url = urlsplit(text.replace(":?}", "}"))
        assert url.username == role.user
        assert url.password == f"${{REPCENTER_ACL_{role.name.upper()}_PASSWORD}}"
        assert f"acl_{role.name}_password" in AccessSettings.model_fields
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"deploy/{mounted.split(':')[0].removeprefix('./')}" in ignored


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_compose_reads_the_file(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXTRA", extra)
    monkeypatch.setenv("REPCENTER_BUNDLES", "/srv/bundles")
    monkeypatch.setenv("REPCENTER_OFFLINE", "/srv/offline")
    resolved = yaml.safe_load(check(*compose_command(), "-f", "deploy/compose.yaml", "config"))
    assert set(resolved["services"]) == {"valkey", *SERVICES}
    for name in SERVICES:
        service = resolved["services"][name]
        assert service["build"]["args"]["EXTRA"] == extra
        assert service["build"]["target"] == name
        assert ("/srv/offline" if name == "sink" else "/srv/bundles") in str(service["volumes"])


def test_compose_starts_what_up_starts() -> None:
    assert set(COMPOSE["services"]) == {"valkey", *(name.split("_")[0] for name in PORTS)}
    published = {int(port.split(":")[1]) for name in SERVICES for port in COMPOSE["services"][name]["ports"]}
    assert published == set(PORTS.values())


def test_every_port_stays_on_the_loopback() -> None:
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_valkey_and_are_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    bundles, offline = "${REPCENTER_BUNDLES:-bundles}", "${REPCENTER_OFFLINE:-offline}"
    of_sink = f"{offline}:/var/lib/repcenter/offline"
    assert service["volumes"] == [of_sink if name == "sink" else f"{bundles}:/var/lib/repcenter:ro"]
    assert service["environment"]["REPCENTER_REDIS_URL"] == "redis://valkey:6379/0"


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting_of_the_process(name: str) -> None:
    settings: Any = {"scorer": ScorerSettings, "sink": SinkSettings}.get(name, EncoderSettings)
    fields = [*settings.model_fields, *StoreSettings.model_fields]
    fields += EncodeSettings.model_fields if name == "scorer" else []
    known = {f"REPCENTER_{field.upper()}" for field in fields}
    in_image = set(re.findall(r"\b(REPCENTER_\w+)=", stage("runtime") + stage(name)))
    assert in_image | set(COMPOSE["services"][name]["environment"]) <= known
    assert "REPCENTER_HOST" in in_image


def test_ports_are_the_defaults_of_the_processes() -> None:
    assert HTTP_PORTS["scorer"] == ScorerSettings.model_fields["http_port"].default
    assert GRPC_PORTS["scorer"] == ScorerSettings.model_fields["grpc_port"].default
    for name in SERVICES:
        ports = [HTTP_PORTS[name], *([GRPC_PORTS[name]] if name in GRPC_PORTS else [])]
        assert f"EXPOSE {' '.join(map(str, ports))}\n" in stage(name)
        assert f"REPCENTER_HTTP_PORT={HTTP_PORTS[name]}" in stage(name)


@pytest.mark.parametrize("name", SERVICES)
def test_images_run_their_process_as_nobody_special(name: str) -> None:
    from typer.main import get_command

    from cli.main import app

    commands: Any = get_command(app)
    assert f'CMD ["{name}"]' in stage(name)
    assert name in commands.commands
    assert 'ENTRYPOINT ["repcenter"]' in stage("runtime")
    assert "USER 10001:10001" in stage("runtime")
    assert "HEALTHCHECK" in stage("runtime")
    assert "USER" not in stage(name)


def test_images_are_installed_under_the_constraints() -> None:
    assert "ARG EXTRA=cpu" in stage("install")
    assert re.search(r"pip install .* -c constraints\.txt", stage("install"))
    assert set(re.findall(r"FROM (\S+) AS", DOCKERFILE)) == {"python:3.11-slim", "runtime"}


def test_a_compiler_comes_only_when_asked_for() -> None:
    assert "ARG KERNELS=0" in stage("runtime")
    assert re.search(r"^ +0\) ;; ", stage("runtime"), re.MULTILINE)
    assert DOCKERFILE.count("apt-get install") == 1
    readme = (DEPLOY / "README.md").read_text()
    override = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)[0])["services"]["scorer"]
    assert override["build"]["args"] == {"KERNELS": "1"}
    cache = override["environment"]["REPCENTER_VAR_DIR"]  # /tmp and the volume of bundles would not do
    assert override["tmpfs"] == [f"{cache}:exec,uid=10001,gid=10001"]
    assert "REPCENTER_VAR_DIR" not in COMPOSE["services"]["scorer"]["environment"]


def test_data_files_are_in_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / package).glob(pattern)), (package, pattern)
    data = {
        p.relative_to(ROOT) for n in copied() for p in (ROOT / n).rglob("*") if p.suffix in (".c", ".lua")
    }
    assert {path.parts[0] for path in data} == {"contracts", "param_server"}


def copied() -> set[str]:
    """What the Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {source for line in lines for source in line.split()}


def test_all_packages_and_nothing_unknown_are_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    licences = set(project["project"]["license-files"])
    wanted = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *licences, *packages}
    assert copied() == wanted | {"deploy/health.py"}
    assert [source for source in sorted(copied()) if not (ROOT / source).exists()] == []


def test_the_ignore_file_lets_through_what_is_copied_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "**"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()
    later = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert any(fnmatch.fnmatch("contracts/__pycache__", rule) for rule in later)
