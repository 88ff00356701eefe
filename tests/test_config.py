"""Settings: argument, environment, file, in this order; and nothing is silently ignored."""

import pytest

from openrouter_audit.config import Config, load_config
from openrouter_audit.errors import ConfigError


def test_without_file_and_environment_everything_has_its_default(tmp_path):
    assert Config() == load_config(tmp_path / "config.toml", {})


def test_the_environment_beats_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[capture]\nmode = "strict"\nhosts = ["a"]\n[enrich]\nmax_per_second = 2\nhorizon_hours = 1.5\n')
    environ = {"OPENROUTER_AUDIT_CAPTURE_MODE": "buffer", "OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND": "7.5"}
    config = load_config(path, environ)

    assert ("buffer", ("a",)) == (config.capture.mode, config.capture.hosts)
    assert (7.5, 1.5) == (config.enrich.max_per_second, config.enrich.horizon_hours)


@pytest.mark.parametrize("name", ["OPENROUTER_AUDIT_HOSTS", "OPENROUTER_AUDIT_CAPTURE_HOSTS"])
def test_hosts_are_a_comma_list(tmp_path, name):
    config = load_config(tmp_path / "config.toml", {name: "gateway.local:8443, other ,"})

    assert ("gateway.local:8443", "other") == config.capture.hosts


def test_aliases_and_foreign_variables_are_no_settings(tmp_path):
    environ = {"OPENROUTER_AUDIT_HOME": "/x", "OPENROUTER_AUDIT_AUTO": "1", "OPENROUTER_API_KEY": "k"}

    assert Config() == load_config(tmp_path / "config.toml", environ)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("[capture]\nmode = 'loud'", "capture.mode"),
        ("[capture]\nspool_max_bytes = 5", "capture.spool_max_bytes"),
        ("[enrich]\nmax_per_second = 0", "enrich.max_per_second"),
        ("[enrich]\nscope = 'some'", "enrich.scope"),
        ("[capture]\nmoed = 'strict'", "capture"),
        ("[captrue]\nmode = 'strict'", None),
        ("not toml", None),
        ("[capture]\nmode = '\xff'", None),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_names_it(tmp_path, text, setting):
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        load_config(path, {})

    assert setting == refused.value.setting


@pytest.mark.parametrize(
    "name", ["OPENROUTER_AUDIT_CAPTURE_MOED", "OPENROUTER_AUDIT_NONSENSE", "OPENROUTER_AUDIT_ENRICH"]
)
def test_an_unknown_variable_is_an_error(tmp_path, name):
    with pytest.raises(ConfigError):
        load_config(tmp_path / "config.toml", {name: "1"})


def test_a_table_in_the_place_of_a_value_is_an_error(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("capture = 5\n")
    with pytest.raises(ConfigError):
        load_config(path, {"OPENROUTER_AUDIT_CAPTURE_MODE": "strict"})


def test_the_policy_hash_changes_with_what_decides_about_recording(tmp_path):
    base, strict = Config().policy(mode="buffer"), Config().policy(mode="strict")
    scoped = load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_ENRICH_SCOPE": "off"})
    shown = load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_REPORT_TZ": "Europe/Berlin"})

    assert 3 == len({base, strict, scoped.policy(mode="buffer")})
    assert base == shown.policy(mode="buffer")


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 100_000,
        "a = {" * 3000,
        "a=" + "1" * 5000,
        "a." * 30_000 + "b=1",
        "a=1\n" * 100_000,
        "[enrich]\nhorizon_hours = inf",
        "[enrich]\nmax_per_second = 1e-300",
        "[capture]\nspool_max_bytes = 9223372036854775808",
    ],
)
def test_a_file_made_to_break_its_reader_is_refused(tmp_path, text):
    """Nesting, digits and dots without end; and figures that no computation survives."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path, {})


def test_bytes_of_the_environment_that_are_no_text_are_no_setting(tmp_path):
    """Python hands them on as half characters, which no log can hold."""
    with pytest.raises(ConfigError, match="CAPTURE_HOSTS"):
        load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_CAPTURE_HOSTS": "a.example\udcff"})


def test_what_a_receiver_is_told_is_off_and_its_names_are_a_closed_list(tmp_path):
    assert not Config().otel.enabled
    assert not Config().otel.user_ids
    environ = {"OPENROUTER_AUDIT_OTEL_ENABLED": "true", "OPENROUTER_AUDIT_OTEL_SCHEMA": "latest"}
    found = load_config(tmp_path / "config.toml", environ)
    assert (True, "latest") == (found.otel.enabled, found.otel.schema)
    assert Config().policy(mode="buffer") == found.policy(mode="buffer")  # it decides about no record
    with pytest.raises(ConfigError, match=r"1\.36, 1\.41, latest"):
        load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_OTEL_SCHEMA": "1.40"})
