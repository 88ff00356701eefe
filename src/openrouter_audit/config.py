"""
Settings: an argument beats the environment, which beats `config.toml` (C13).

Read once, by audit_log and the rooms above it; each room gets its own options as values. Unknown keys are errors: a
setting that is silently ignored is the worst kind.
"""

from __future__ import annotations

import hmac
import importlib
import os
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from openrouter_audit.capture.content import MAX_KEPT_BYTES, Action, ContentPolicy, ContentRule
from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import ContentMode, Mode
from openrouter_audit.errors import ConfigError

if TYPE_CHECKING:
    from openrouter_audit.core.redaction import Policy

_PREFIX = "OPENROUTER_AUDIT_"
_ALIASES = frozenset({"HOME", "HOSTS", "AUTO"})
_MAX_FILE_BYTES = 64 * 1024
_SETTINGS_LABEL = b"openrouter-audit/content-settings/v1\n"
_LISTS = frozenset(
    {("capture", "hosts"), *(("redact", name) for name in ("off", "national_ids", "phone_regions", "detectors"))}
)
"""Settings that the environment gives as comma lists."""
_MAX_DOTS = 2_000
"""In a file: `a.a.a.…` makes as many tables one inside the other, and the parser walks through all of them at each step."""


class Capture(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: Mode = "buffer"
    """What happens when the disk takes no intent, and what is synced (DESIGN section 6)."""
    hosts: tuple[str, ...] = ()
    """`host` or `host:port`, watched beside OpenRouter's own."""
    spool_max_bytes: Annotated[int, Meta(ge=1024 * 1024, le=2**63 - 1)] = 1024**3
    router_metadata: bool = False
    """Add `X-OpenRouter-Metadata: enabled` to chat, completions, responses and messages: the one way in which a request is altered."""
    log_user_ids: bool = False
    """Show user ids instead of references in the log line of each call (C19)."""


class Content(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: ContentMode = "none"
    """What is kept of prompts and answers; in `none` sizes, counts and commitments."""
    max_bytes: Annotated[int, Meta(ge=1024, le=MAX_KEPT_BYTES)] = MAX_KEPT_BYTES
    """Of one body; of a longer one both ends are kept."""
    rules: tuple[ContentRule, ...] = ()
    """For some calls something else; the first that fits counts."""


class Pattern(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    pattern: str


class Redact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for, as in `core.redaction.Policy`, and what is done where it is found."""

    action: Action = "redact"
    off: tuple[str, ...] = ()
    national_ids: tuple[str, ...] = ()
    phone_regions: tuple[str, ...] | None = None
    any_phone: bool = False
    numbered: bool = False
    patterns: tuple[Pattern, ...] = ()
    detectors: tuple[str, ...] = ()
    """`package.module:name` of something that makes a detector when it is called."""


class Enrich(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scope: Literal["all", "missing", "off"] = "all"
    horizon_hours: Annotated[float, Meta(gt=0, le=1_000_000)] = 24.0
    max_per_second: Annotated[float, Meta(ge=0.000_1, le=1_000_000)] = 5.0
    """Requests to `GET /generation`, for each key."""


class Otel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = False
    """Tell an OpenTelemetry receiver of each finished call; where it is says the standard environment."""
    schema: Literal["1.36", "1.41", "latest"] = "1.41"
    """Of the GenAI conventions, none of which is stable."""
    user_ids: bool = False
    """Tell user ids and sessions too."""


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tz: str = "UTC"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a home."""

    capture: Capture = Capture()
    content: Content = Content()
    redact: Redact = Redact()
    enrich: Enrich = Enrich()
    otel: Otel = Otel()
    report: Report = Report()

    def content_policy(self) -> ContentPolicy | None:
        """
        What is kept of bodies; None where that is nothing, and nothing is looked for in them.

        Raises:
            ConfigError: A class, country, pattern or detector cannot be meant.
            ExtraMissing: The extra `redaction` is not installed.
        """
        if self.redact.action == "redact" and self.content.mode == "none" and not self.content.rules:
            return None
        policy = ContentPolicy(
            mode=self.content.mode,
            action=self.redact.action,
            redaction=self.redaction_policy(),
            rules=self.content.rules,
            max_bytes=self.content.max_bytes,
        )
        return None if policy.is_idle else policy

    def redaction_policy(self) -> Policy:
        """
        What redaction looks for.

        Raises:
            ConfigError: A class, country, pattern or detector cannot be meant.
        """
        from openrouter_audit.core.redaction import DEFAULT, OwnPattern, Policy

        asked = self.redact
        return Policy(
            off=frozenset(asked.off),
            national_ids=asked.national_ids,
            phone_regions=DEFAULT.phone_regions if asked.phone_regions is None else asked.phone_regions,
            any_phone=asked.any_phone,
            numbered=asked.numbered,
            patterns=tuple(OwnPattern(name=own.name, pattern=own.pattern) for own in asked.patterns),
            detectors=tuple(_detector(name) for name in asked.detectors),
        )

    def policy(self, *, mode: Mode, key: bytes) -> str:
        """SHA-256 of what decides about recording; intents carry it, `log.config` spells it out."""
        return sha256(encode(self.policy_facts(mode=mode, key=key))).hexdigest()

    def policy_facts(self, *, mode: Mode, key: bytes) -> dict[str, Any]:
        """
        Args:
            key: 32 bytes that stay in the home. Rules may name people, so only a keyed hash of them leaves it (P4).
        """
        more: dict[str, Any] = {"router_metadata": True} if self.capture.router_metadata else {}
        if self.redact.action != "redact":
            more["redact_action"] = self.redact.action
        if self.content != Content() or self.redact != Redact():
            said = msgspec.json.encode((self.content, self.redact), order="deterministic")
            more["content_settings"] = hmac.digest(key, _SETTINGS_LABEL + said, "sha256").hex()
        return {
            **more,
            "mode": mode,
            "content_mode": self.content.mode,
            "enrich_scope": self.enrich.scope,
            "hosts": sorted(self.capture.hosts),
        }


def _detector(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise ConfigError(
            f"the detector {name!r} cannot be made: {type(error).__name__}: {error}", setting="redact.detectors"
        ) from error


def load_config(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """
    Read `config.toml` (which may be missing) and lay the environment over it.

    Raises:
        ConfigError: A key is unknown, a value is of another type or out of range; it says which.
    """
    settings = _read(path)
    for name, value in environ.items():
        if name.startswith(_PREFIX) and (rest := name.removeprefix(_PREFIX)) not in _ALIASES:
            _overlay(settings, rest, value)
    if hosts := environ.get(_PREFIX + "HOSTS"):
        _overlay(settings, "CAPTURE_HOSTS", hosts)
    try:
        return msgspec.convert(settings, type=Config, strict=False)
    except msgspec.ValidationError as error:
        setting = _at_fault(str(error))
        raise ConfigError(f"settings: {error}{_choices(setting)}", setting=setting) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.exists():
            return {}
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES or data.count(b".") > _MAX_DOTS:
            raise ConfigError(f"{path.name} is too large to be one of settings")
        return tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path.name} cannot be read: {error}") from error


def _overlay(settings: dict[str, Any], name: str, value: str) -> None:
    """`ENRICH_MAX_PER_SECOND` is `enrich.max_per_second`."""
    if not value.isprintable():  # nor do half characters, which stand for bytes that are no UTF-8
        raise ConfigError(f"{_PREFIX}{name} holds what no setting holds")
    section, _, key = name.lower().partition("_")
    fields = {field.name: field for field in msgspec.structs.fields(Config)}
    if section not in fields or key not in fields[section].type.__struct_fields__:
        raise ConfigError(f"{_PREFIX}{name} is no setting", setting=f"{section}.{key}")
    table = settings.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"settings: [{section}] is no table", setting=section)
    table[key] = _split(value) if (section, key) in _LISTS else value


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _choices(setting: str | None) -> str:
    """What a setting with a closed list of values may be."""
    section, _, key = (setting or "").partition(".")
    kinds = {field.name: field.type for field in msgspec.structs.fields(Config)}
    if section not in kinds:
        return ""
    words = {field.name: get_args(field.type) for field in msgspec.structs.fields(kinds[section])}.get(key, ())
    return f"; it may be {', '.join(words)}" if words and all(isinstance(word, str) for word in words) else ""


def _at_fault(message: str) -> str | None:
    _, _, path = message.partition("`$.")
    return path.rstrip("`") or None
