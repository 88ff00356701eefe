"""
The flight recorder of every call a company makes to models through OpenRouter.

Public names are loaded on first use, so that proving a bundle loads core and verification only.
"""

from typing import TYPE_CHECKING, Any

from openrouter_audit._version import __version__

if TYPE_CHECKING:
    from openrouter_audit.audit_log import AuditLog as AuditLog
    from openrouter_audit.audit_log import install as install
    from openrouter_audit.audit_log import uninstall as uninstall
    from openrouter_audit.capture.attribution import Receipt as Receipt
    from openrouter_audit.capture.attribution import attribution as attribution
    from openrouter_audit.capture.attribution import carry as carry
    from openrouter_audit.completion import AuditEntry as AuditEntry
    from openrouter_audit.completion import audited_completion as audited_completion
    from openrouter_audit.core.redaction import redact as redact
    from openrouter_audit.core.redaction import redact_pii as redact_pii

_HOMES = {
    "AuditLog": "audit_log",
    "install": "audit_log",
    "uninstall": "audit_log",
    "Receipt": "capture.attribution",
    "attribution": "capture.attribution",
    "carry": "capture.attribution",
    "AuditEntry": "completion",
    "audited_completion": "completion",
    "redact": "core.redaction",
    "redact_pii": "core.redaction",
}
__all__ = [
    "AuditEntry",
    "AuditLog",
    "Receipt",
    "__version__",
    "attribution",
    "audited_completion",
    "carry",
    "install",
    "redact",
    "redact_pii",
    "uninstall",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
