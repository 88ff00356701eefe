"""
What people wrote, cleaned before it is written down: classes, engine, and a walker over JSON bodies.

Patterns and validators only: they find what has a form, not names or addresses. It computes: no file, clock or randomness,
and the libraries of the extra `redaction` are loaded when the first text is looked through.
"""

from openrouter_audit.core.redaction.cut import Cut as Cut
from openrouter_audit.core.redaction.policy import DEFAULT as DEFAULT
from openrouter_audit.core.redaction.policy import KINDS as KINDS
from openrouter_audit.core.redaction.policy import Detector as Detector
from openrouter_audit.core.redaction.policy import Finding as Finding
from openrouter_audit.core.redaction.policy import OwnPattern as OwnPattern
from openrouter_audit.core.redaction.policy import Policy as Policy
from openrouter_audit.core.redaction.redactor import Numbers as Numbers
from openrouter_audit.core.redaction.redactor import Redactor as Redactor
from openrouter_audit.core.redaction.redactor import redact as redact
from openrouter_audit.core.redaction.redactor import redact_pii as redact_pii
from openrouter_audit.core.redaction.walker import RedactedBody as RedactedBody
from openrouter_audit.core.redaction.walker import redact_json as redact_json
