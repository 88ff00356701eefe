"""`openrouter-audit publish`: the log as files that a stranger can check without our code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.errors import FlushTimeout, HomeError, JournalUnavailable, OpenRouterAuditError, VerificationError
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.publisher import Publication
from openrouter_audit.journal.publisher import publish as publish_log

_BAD_DATA: Final = 65
_UNAVAILABLE: Final = 69
_WAIT_S: Final = 2.0


def publish(
    directory: Path,
    *,
    home: Annotated[Path | None, Parameter(show=False)] = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
) -> None:
    """
    Write the log into a folder as C2SP tiles: checkpoint, tile/..., tile/entries/..., and the policy.

    Publishing again adds what is new. Exits 65 where the folder holds another log, a longer one, or anything else.

    Parameters
    ----------
    directory:
        A new or empty folder, or one that this log was published into before.
    """
    from openrouter_audit.audit_log import AuditLog, require_home

    try:
        located = require_home(home)
        with AuditLog.open(located.path, enrich=False) as audit:
            try:
                audit.flush(_WAIT_S)
            except FlushTimeout as error:
                print(f"{error.pending} records are not yet committed", file=sys.stderr)
        published = publish_home(located, directory)
    except VerificationError as error:
        _fail(error, _BAD_DATA)
    except (HomeError, JournalUnavailable, OSError) as error:
        _fail(error, _UNAVAILABLE)
    except OpenRouterAuditError as error:
        _fail(error, _BAD_DATA)
    else:
        _show(published, format)


def publish_home(home: Home, directory: Path) -> Publication:
    """
    Publish what is committed, without draining first.

    Raises:
        VerificationError, JournalUnavailable, OSError: As `journal.publisher.publish` raises them.
    """
    policy_text = home.policy_path.read_bytes()
    with JournalEvidence.open(home.journal_path) as evidence:
        return publish_log(
            evidence,
            directory,
            policy=decode_policy(policy_text),
            policy_text=policy_text,
            progress=_show_progress if sys.stderr.isatty() else None,
        )


def _show(published: Publication, format_: str) -> None:
    root = encode_base64(published.root_hash)
    if format_ == "json":
        shape = {
            "origin": published.origin,
            "tree_size": published.tree_size,
            "root": root,
            "files_written": published.files_written,
        }
        print(json.dumps(shape, ensure_ascii=False))
    else:
        print(
            f"{published.origin}: {published.tree_size} entries, root {root}, {published.files_written} files written"
        )


def _show_progress(done: int, size: int) -> None:
    if done == size:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    elif not done % 16_384:
        print(f"\r{done:,} of {size:,} entries", end="", file=sys.stderr, flush=True)


def _fail(error: Exception, code: int) -> None:
    print(error, file=sys.stderr)
    raise SystemExit(code)
