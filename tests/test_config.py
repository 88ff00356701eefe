"""Settings: argument, environment, file, in this order; and nothing is silently ignored."""

import pytest

from openrouter_audit.config import Config, load_config
from openrouter_audit.errors import ConfigError

KEY = b"k" * 32


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
    base, strict = Config().policy(mode="buffer", key=KEY), Config().policy(mode="strict", key=KEY)
    scoped = load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_ENRICH_SCOPE": "off"})
    shown = load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_REPORT_TZ": "Europe/Berlin"})

    assert 3 == len({base, strict, scoped.policy(mode="buffer", key=KEY)})
    assert base == shown.policy(mode="buffer", key=KEY)


def test_a_rule_about_a_person_changes_the_policy_and_is_not_told_by_it(tmp_path):
    """
    P4: the entry says that the settings are others, in a hash that nobody outside the home can try names on.
    """
    path = tmp_path / "config.toml"
    texts = [
        '[content]\nmode = "redacted"',
        '[content]\nmode = "redacted"\nrules = [{user = "jane.doe@example.com", mode = "full"}]',
        '[content]\nmode = "redacted"\nrules = [{user = "john.doe@example.com", mode = "full"}]',
        '[content]\nmode = "redacted"\n[redact]\noff = ["PHONE"]',
        '[content]\nmode = "redacted"\n[redact]\naction = "block"',
    ]
    facts, policies = [], set()
    for text in texts:
        path.write_text(text)
        config = load_config(path, {})
        facts.append(config.policy_facts(mode="buffer", key=KEY))
        policies |= {config.policy(mode="buffer", key=KEY), config.policy(mode="buffer", key=bytes(32))}
    assert 2 * len(texts) == len(policies)
    assert not [told for told in facts if "doe" in str(told)]
    assert ["redacted"] * len(texts) == [told["content_mode"] for told in facts]
    assert "block" == facts[-1]["redact_action"]
    assert "content_settings" not in Config().policy_facts(mode="buffer", key=KEY)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ('[content]\nmode = "some"', "content.mode"),
        ("[content]\nmax_bytes = 300000", "content.max_bytes"),
        ('[content]\nrules = [{path = "/x", mode = "full"}]', "content.rules"),
        ('[redact]\naction = "warn"', "redact.action"),
        ('[redact]\naction = "report"\noff = ["NAME"]', "redact.off"),
        ('[redact]\naction = "report"\npatterns = [{name = "ORDER", pattern = "("}]', "redact.patterns"),
        ('[redact]\naction = "report"\npatterns = [{name = "order", pattern = "x"}]', "redact.patterns"),
        ('[redact]\naction = "report"\ndetectors = ["no.such.module:it"]', "redact.detectors"),
        ('[redact]\naction = "report"\ndetectors = ["json"]', "redact.detectors"),
    ],
)
def test_a_setting_about_content_that_cannot_be_meant_is_refused_before_the_first_call(tmp_path, text, setting):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path, {}).content_policy()
    assert setting in str(raised.value.setting)


def test_lists_of_redaction_come_from_the_environment_too(tmp_path):
    environ = {"OPENROUTER_AUDIT_CONTENT_MODE": "preview", "OPENROUTER_AUDIT_REDACT_OFF": "PHONE, IP"}
    config = load_config(tmp_path / "config.toml", environ)

    assert ("preview", ("PHONE", "IP")) == (config.content.mode, config.redact.off)
    assert config.content_policy() is not None
    assert Config().content_policy() is None


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
    assert Config().policy(mode="buffer", key=KEY) == found.policy(mode="buffer", key=KEY)  # it decides about no record
    with pytest.raises(ConfigError, match=r"1\.36, 1\.41, latest"):
        load_config(tmp_path / "config.toml", {"OPENROUTER_AUDIT_OTEL_SCHEMA": "1.40"})
