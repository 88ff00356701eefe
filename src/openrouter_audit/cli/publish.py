"""`openrouter-audit publish`: the log as files that a stranger can check without our code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from openrouter_audit.cli.common import HomeOption, drained, progress
from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.publisher import Publication
from openrouter_audit.journal.publisher import publish as publish_log


def publish(directory: Path, /, *, home: HomeOption = None, format: Literal["table", "json"] = "table") -> None:  # noqa: A002 - the option's name (C3)
    """
    Write the log into a folder as C2SP tiles: checkpoint, tile/..., tile/entries/..., and the policy.

    Publishing again adds what is new. Exits 65 where the folder holds another log, a longer one, or anything else.

    Parameters
    ----------
    directory:
        A new or empty folder, or one that this log was published into before.
    """
    with drained(home) as audit:
        published = publish_home(audit.home, directory)
    root = encode_base64(published.root_hash)
    if format == "json":
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


def publish_home(home: Home, directory: Path) -> Publication:
    """
    Publish what is committed, without draining first.

    Raises:
        VerificationError, JournalUnavailable, OSError: As `journal.publisher.publish` raises them.
    """
    policy_text = home.policy_path.read_bytes()
    with JournalEvidence.open(home.journal_path) as evidence, progress("publishing", evidence.head().tree_size) as show:
        return publish_log(
            evidence,
            directory,
            policy=decode_policy(policy_text),
            policy_text=policy_text,
            progress=lambda done, _: show(done),
        )
