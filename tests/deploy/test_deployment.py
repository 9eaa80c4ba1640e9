"""docker-compose.yml, Dockerfile and systemd units against the code: they can't be run here, and must not rot."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from featurestore.config import Settings
from tests.deploy.commands import parse

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("featurestore:"))
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def environment_of(name: str) -> dict[str, str]:
    """Variables of a service, those of the image first."""
    image = dict(re.findall(r"(FEATURESTORE_\w+)=(\S+)", DOCKERFILE))
    return {**image, **SERVICES[name].get("environment", {})}


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a service runs with: its file, environment and options. Raises ConfigError for a wrong one."""
    for variable, value in environment_of(name).items():
        monkeypatch.setenv(variable, str(value))
    _, options = parse(SERVICES[name]["command"])
    overrides = {"serving.port": options.get("port"), "serving.host": options.get("host")}
    return Settings.load(ROOT, overrides)


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


def test_worker_and_server_are_there():
    assert OURS == ["server", "worker"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_a_command_that_the_cli_knows(name: str):
    command, options = parse(SERVICES[name]["command"])
    assert command == {"worker": "run", "server": "serve"}[name]
    for module in options.get("modules", ()):
        assert (ROOT / module).exists(), module


@pytest.mark.parametrize("arguments", [["run", "x.py", "--aply"], ["serf"], ["serve", "--port", "many"]])
def test_a_command_that_the_cli_does_not_know_would_be_noticed(arguments: list[str]):
    with pytest.raises(Exception, match=r"No such|valid integer"):
        parse(arguments)


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_settings_that_fit_together(name: str, monkeypatch: pytest.MonkeyPatch):
    settings = settings_of(name, monkeypatch)
    assert str(settings.store.data_dir) == "/data"
    assert f"{settings.store.data_dir}" in [volume.split(":")[1] for volume in SERVICES[name]["volumes"]]
    if name == "worker":
        host, port = settings.kafka.bootstrap_servers.split(":")
        assert host in SERVICES
        listeners = SERVICES[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert f"INTERNAL://{host}:{port}" in listeners.split(",")
        assert settings.worker.metrics_host == "0.0.0.0", "Prometheus is another host"
    else:
        assert settings.serving.clock == "wall", "the mounted file has the examples' clock, under which nothing decays"


def test_the_health_checks_ask_what_is_served(monkeypatch: pytest.MonkeyPatch):
    ports = {
        "worker": settings_of("worker", monkeypatch).worker.metrics_port,
        "server": settings_of("server", monkeypatch).serving.port,
    }
    paths = {"worker": "/metrics", "server": "/health"}
    for name in OURS:
        probe = SERVICES[name]["healthcheck"]["test"]
        assert probe[:3] == ["CMD", "python", "-c"]
        compile(probe[3], "probe", "exec")
        url = re.search(r"http://[^']+", probe[3])
        assert url is not None
        assert url[0] == f"http://127.0.0.1:{ports[name]}{paths[name]}"
        assert str(ports[name]) in [str(port).rsplit(":", 1)[-1] for port in SERVICES[name].get("ports", ())] + list(
            SERVICES[name].get("expose", ())
        )


def test_prometheus_scrapes_every_process(monkeypatch: pytest.MonkeyPatch):
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    worker = settings_of("worker", monkeypatch).worker
    assert targets["featurestore-worker"] == [f"worker:{worker.metrics_port + i}" for i in range(worker.processes)]
    assert targets["featurestore-server"] == [f"server:{settings_of('server', monkeypatch).serving.port}"]
    config = SERVICES["prometheus"]["command"][0].removeprefix("--config.file=")
    assert config == "/etc/prometheus/prometheus.yml"
    assert (ROOT / "deploy/prometheus" / PROMETHEUS["rule_files"][0]).exists()


def test_the_topic_is_the_one_that_the_pipeline_reads():
    options = [word for word in SERVICES["topics"]["command"] if word.startswith("--topic=")]
    topic = options[0].removeprefix("--topic=")
    assert f'topic="{topic}"' in (ROOT / "pipelines/transactions.py").read_text()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_bounded_pinned_and_waits_for_what_it_needs(name: str):
    service = SERVICES[name]
    assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
    assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", service["image"]), "an image has a version"
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}
    for needed, how in service.get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[needed]
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "reachable from elsewhere only where somebody says so"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_not_privileged(name: str):
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert "user" not in service, "the image's"
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user
    assert not user[-1].startswith(("0", "root"))
    assert int(service["stop_grace_period"].rstrip("s")) >= 15, "a drain takes seconds"


def test_the_dockerfile_copies_what_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        copied.update(line.split()[:-1])
    assert copied == kept
    for path in copied:
        assert (ROOT / path).exists(), path


def test_the_dockerfile_serves_the_ports_and_the_program_that_there_are():
    settings = Settings()
    exposed = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)[0].split()
    assert exposed == [str(settings.serving.port), str(settings.worker.metrics_port)]
    assert 'ENTRYPOINT ["featurestore"]' in DOCKERFILE
    assert 'featurestore = "featurestore.cli:main"' in (ROOT / "pyproject.toml").read_text()


def pins(path: str) -> dict[str, set[str]]:
    """Pinned versions by package."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9_.-]+)==([^\s;\\]+)", (ROOT / path).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_the_image_holds_versions_that_were_tested_and_no_tool_of_developers():
    ours, image = pins("requirements.lock"), pins("deploy/requirements.lock")
    assert {name: versions for name, versions in image.items() if not versions <= ours.get(name, set())} == {}
    assert not image.keys() & {"pytest", "mypy", "ruff", "hypothesis"}
    lock = (ROOT / "deploy/requirements.lock").read_text()
    assert lock.count("==") <= lock.count("--hash=sha256:")


def test_the_page_applies_what_the_systemd_worker_runs_without_apply():
    page = (ROOT / "docs/how-to/deploy.md").read_text()
    found = re.search(r"-- /opt/featurestore/bin/featurestore (apply .+)$", page, re.MULTILINE)
    assert found is not None, "the unit's worker would stop at its first start: nothing is applied"
    command, applied = parse(shlex.split(found[1]))
    service = unit(ROOT / "deploy/systemd/featurestore-worker.service")["Service"]
    _, run = parse(shlex.split(service["ExecStart"])[1:])
    assert command == "apply"
    assert not run["apply"]
    assert applied["modules"] == run["modules"]
    assert str(applied["data_dir"]) == service["Environment"].partition("=")[2]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_systemd_unit_runs_a_command_that_the_cli_knows_and_drains(path: Path, monkeypatch: pytest.MonkeyPatch):
    service = unit(path)["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/opt/featurestore/bin/featurestore"
    _, options = parse(arguments)
    for module in options.get("modules", ()):
        assert (ROOT / module).exists()
    for assignment in shlex.split(service["Environment"]):
        variable, _, value = assignment.partition("=")
        monkeypatch.setenv(variable, value)
    settings = Settings.load(ROOT)
    if arguments[0] == "serve":
        assert settings.serving.clock == "wall", "values as of now, also in a project that init made"
    assert str(settings.store.data_dir) == f"/var/lib/{service['StateDirectory']}"
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    assert int(service["TimeoutStopSec"]) >= 15
