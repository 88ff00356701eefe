"""`openrouter-audit redact`: what mode `redacted` would keep of a body, and why; nothing is kept."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from typing import Annotated, Literal

from cyclopts import Parameter

from openrouter_audit.capture.assembly import assembled
from openrouter_audit.cli.common import HomeOption
from openrouter_audit.config import load_config
from openrouter_audit.core.redaction import RedactedBody, redact_json
from openrouter_audit.journal.home import Home

_MAX_PLACES = 3


def redact(
    *,
    format: Literal["text", "json"] = "text",  # noqa: A002 - the option is called so in every command
    numbered: bool = False,
    any_phone: bool = False,
    national_id: Annotated[tuple[str, ...], Parameter(name="--national-id", negative=())] = (),
    off: Annotated[tuple[str, ...], Parameter(name="--off", negative=())] = (),
    home: HomeOption = None,
) -> None:
    """
    Show what redaction leaves of standard input, and what it found, by the settings in [redact] and these.

    Parameters
    ----------
    format:
        text: the redacted input, and the findings on stderr; json: one object with both.
    numbered:
        Number equal values.
    any_phone:
        Take ten digits for a telephone number without a word such as `phone` in front.
    national_id:
        A country whose national ids are looked for.
    off:
        A class that is left as it is.
    """
    policy = load_config(Home.locate(home).config_path).redaction_policy()
    policy = replace(
        policy,
        numbered=numbered or policy.numbered,
        any_phone=any_phone or policy.any_phone,
        national_ids=tuple(dict.fromkeys((*policy.national_ids, *national_id))),
        off=policy.off | frozenset(off),
    )
    done = redact_json(sys.stdin.buffer.read(), policy, assemble=assembled)
    if format == "json":
        _print_json(done)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(done.body if done.body.endswith(b"\n") else done.body + b"\n")
    sys.stdout.buffer.flush()
    places: dict[str, list[str]] = defaultdict(list)
    for finding in done.findings:
        places[finding.kind].append(finding.path or f"{finding.start}-{finding.end}")
    for kind, count in done.counts.items():
        shown = ", ".join(dict.fromkeys(places[kind][:_MAX_PLACES])) + (", …" if count > _MAX_PLACES else "")
        print(f"{kind:<12} {count:>5}  {shown}", file=sys.stderr)
    if not done.findings:
        print("nothing was found; names and addresses are not looked for", file=sys.stderr)


def _print_json(done: RedactedBody) -> None:
    import json

    findings = [{"class": each.kind, "start": each.start, "end": each.end, "path": each.path} for each in done.findings]
    shown = {"redacted": done.body.decode("utf-8", "replace"), "counts": done.counts, "findings": findings}
    print(json.dumps(shown, ensure_ascii=False, indent=2).encode("utf-8", "replace").decode())
