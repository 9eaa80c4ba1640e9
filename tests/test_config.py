"""Settings: layers, wrong values, unknown keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.config import Settings
from featurestore.errors import ConfigError


def write(folder: Path, text: str) -> None:
    (folder / "featurestore.toml").write_text(text)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    assert settings.kafka.bootstrap_servers == "embedded"
    assert settings.worker.commit_interval_s == 1.0
    assert settings.serving.refresh_interval_s == 0.1
    assert settings.store.data_dir == (tmp_path / "data").resolve()


def test_environment_overrides_the_file_and_an_option_overrides_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, '[kafka]\nbootstrap_servers = "file:1"\ngroup_id = "file"\n[serving]\nport = 1\n')
    monkeypatch.setenv("FEATURESTORE_KAFKA__BOOTSTRAP_SERVERS", "environment:2")
    monkeypatch.setenv("FEATURESTORE_SERVING__PORT", "2")
    settings = Settings.load(tmp_path, {"serving.port": 3, "serving.host": None})
    assert settings.kafka.group_id == "file"
    assert settings.kafka.bootstrap_servers == "environment:2"
    assert (settings.serving.port, settings.serving.host) == (3, "127.0.0.1")


def test_an_absolute_data_dir_is_kept(tmp_path: Path) -> None:
    assert Settings.load(tmp_path / "project", {"store.data_dir": tmp_path}).store.data_dir == tmp_path.resolve()


def test_kafka_settings_come_from_nested_tables_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        '[kafka.settings]\nsecurity.protocol = "SASL_SSL"\n"enable.ssl.certificate.verification" = false\n',
    )
    monkeypatch.setenv("FEATURESTORE_KAFKA__SETTINGS__SASL_PASSWORD", "secret")
    settings = Settings.load(tmp_path)
    assert settings.kafka.settings == {
        "security.protocol": "SASL_SSL",
        "enable.ssl.certificate.verification": "false",
        "sasl.password": "secret",
    }
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[worker]\ncomit_interval = "1s"\n',
            ["worker.comit_interval", "commit_interval", "featurestore.toml"],
        ),
        ("[workers]\n", ["unknown key 'workers'", "did you mean worker?"]),
        ('[worker]\ncommit_interval = "1 parsec"\n', ["worker.commit_interval", "'1 parsec'", "500ms"]),
        ('[worker]\ncommit_interval = "10ms"\n', ["'10ms'", "from 50ms to 60s"]),
        ("[worker]\ncommit_interval = 5\n", ["worker.commit_interval is 5", "string"]),
        ("[serving]\nport = 70000\n", ["serving.port is 70000", "65535"]),
        ('[serving]\nclock = "moon"\n', ["serving.clock is 'moon'", "'wall' or 'event'"]),
        ('[serving]\nrefresh_interval = "0s"\n', ["serving.refresh_interval", "above 0"]),
        ('[kafka.settings]\n"group.id" = "x"\n', ["kafka.settings", "set kafka.group_id"]),
        ("[kafka\n", ["featurestore.toml", "TOML"]),
    ],
)
def test_a_wrong_file_is_told_with_key_value_and_what_was_expected(tmp_path: Path, text: str, words: list[str]) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Settings.load(tmp_path)
    for word in words:
        assert word in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FEATURESTORE_WORKER__COMIT_INTERVAL", "1s", ["the environment", "commit_interval"]),
        ("FEATURESTORE_WORKRE__COMMIT_INTERVAL", "1s", ["FEATURESTORE_WORKRE__COMMIT_INTERVAL", "worker"]),
        ("FEATURESTORE_SERVING__PORT", "abc", ["serving.port", "'abc'", "integer"]),
        ("FEATURESTORE_KAFKA__SETTINGS", "{", ["kafka", "JSON"]),
    ],
)
def test_a_wrong_variable_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings.load(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_other_variables_of_ours_are_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_REQUIRE_KAFKA", "1")
    Settings.load(tmp_path)


def test_settings_survive_the_way_to_a_child_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(tmp_path, {"serving.port": 1234})
    monkeypatch.setenv("FEATURESTORE_SERVING__PORT", "99")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
