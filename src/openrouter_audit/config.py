"""
Settings: an argument beats the environment, which beats `config.toml` (C13).

Read once, by audit_log and the rooms above it; each room gets its own options as values. Unknown keys are errors: a
setting that is silently ignored is the worst kind.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import Mode
from openrouter_audit.errors import ConfigError

_PREFIX = "OPENROUTER_AUDIT_"
_ALIASES = frozenset({"HOME", "HOSTS", "AUTO"})
_MAX_FILE_BYTES = 64 * 1024
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
    mode: Literal["none"] = "none"
    """What is kept of prompts and answers: sizes, counts and commitments."""


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
    enrich: Enrich = Enrich()
    otel: Otel = Otel()
    report: Report = Report()

    def policy(self, *, mode: Mode) -> str:
        """SHA-256 of what decides about recording; intents carry it, `log.config` spells it out."""
        return sha256(encode(self.policy_facts(mode=mode))).hexdigest()

    def policy_facts(self, *, mode: Mode) -> dict[str, Any]:
        asks = {"router_metadata": True} if self.capture.router_metadata else {}
        return {
            **asks,
            "mode": mode,
            "content_mode": self.content.mode,
            "enrich_scope": self.enrich.scope,
            "hosts": sorted(self.capture.hosts),
        }


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
    table[key] = _split(value) if (section, key) == ("capture", "hosts") else value


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
