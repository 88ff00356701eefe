"""`openrouter-audit recover`: a home that was restored, put back or damaged goes on, and says what is lost."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Literal

from openrouter_audit.cli import EXIT_BAD_DATA, EXIT_UNAVAILABLE
from openrouter_audit.cli.common import WAIT_S, HomeOption, hint, now_us
from openrouter_audit.core.checkpoints import Policy, decode_policy, open_checkpoint
from openrouter_audit.core.notes import decode_base64, parse_note, parse_tree_head
from openrouter_audit.errors import HomeError, JournalUnavailable, UnknownOrigin, VerificationError
from openrouter_audit.journal.backup import find_changes
from openrouter_audit.journal.examination import Examination, examine
from openrouter_audit.journal.files import locked_directory
from openrouter_audit.journal.home import Home, Lease
from openrouter_audit.journal.recovery import recover as recover_home
from openrouter_audit.verification.source import KnownHead

_HEAD_WORDS = 3
_POLL_S = 0.02


def recover(
    *,
    home: HomeOption = None,
    yes: bool = False,
    old_head: Path | None = None,
    policy: Path | None = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
) -> int:
    """
    Say what a home lost, and with --yes make it fit to go on. Without --yes nothing is changed.

    Exits 0 where nothing is wrong or all was done, 65 where something is to be done, 69 where it cannot be done now.

    Parameters
    ----------
    yes:
        Do it.
    old_head:
        The newest state of the log that you know of from outside: a head file, a checkpoint, or a folder that the log was
        published into. It tells how much is lost.
    policy:
        Pinned keys and least size, by default the policy in the home.
    """
    located = Home.locate(home)
    left = (located.head_path, located.journal_path, located.keys_dir, located.policy_path, located.succession_dir)
    if not any(path.exists() for path in left):
        raise HomeError(f"there is no log in {located.path}, nor what is left of one", home=str(located.path))
    pinned = None if policy is None else decode_policy(policy.read_bytes())
    if located.backup_path.exists():
        for name in find_changes(located):
            hint(f"{name} is not as the backup was made: if you can, copy it again")
    heads = [] if old_head is None else [read_old_head(old_head, pinned or _own_policy(located))]
    lease = Lease(located.lease_path)
    held = _acquire(lease)
    try:
        if yes and not held:
            hint(f"process {lease.holder()} takes records in here: stop it first")
            return EXIT_UNAVAILABLE
        found = examine(located, policy=pinned, heads=heads)
        done = bool(yes and found.troubles)
        if done:
            _do(found)
    finally:
        lease.release()
    if format == "json":
        print(json.dumps(_as_json(found, done=done), ensure_ascii=False))
    else:
        _print(found, done=done)
    return EXIT_BAD_DATA if found.troubles and not done else 0


def _acquire(lease: Lease) -> bool:
    """A program that cannot go on with this home takes the lease again and again, and gives it up at once."""
    deadline = time.monotonic() + WAIT_S
    while not lease.acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _do(found: Examination) -> None:
    home = found.home
    with locked_directory(home.path):
        recover_home(found, at_us=now_us())
    from openrouter_audit.reports.projection import Projection

    # The reports follow at the latest with the next program; what is asked before then is answered from the old ones.
    with contextlib.suppress(JournalUnavailable):
        projection = Projection.open(home.journal_path, home.reports_path)
        try:
            projection.follow()
        finally:
            projection.close()


def read_old_head(path: Path, policy: Policy | None) -> KnownHead:
    """
    A state that was signed, as somebody kept it outside of the home.

    Raises:
        VerificationError: It is no head file and no checkpoint, or a checkpoint that is not signed as it must be.
    """
    file = path / "checkpoint" if path.is_dir() else path
    data = file.read_bytes()
    words = data.decode("utf-8", "replace").split()
    if len(words) == _HEAD_WORDS and words[1].isdigit():
        return KnownHead(origin=words[0], tree_size=int(words[1]), root_hash=decode_base64(words[2]))
    origin = parse_tree_head(parse_note(data).text).origin
    keys = None if policy is None else policy.logs.get(origin)
    if keys is None:
        raise UnknownOrigin(origin=origin)
    opened = open_checkpoint(data, log_keys=keys).checkpoint
    return KnownHead(origin=opened.origin, tree_size=opened.tree_size, root_hash=opened.root_hash)


def _own_policy(home: Home) -> Policy | None:
    try:
        return decode_policy(home.policy_path.read_bytes())
    except (OSError, VerificationError):
        return None


def _as_json(found: Examination, *, done: bool) -> dict[str, Any]:
    return {
        "home": str(found.home.path),
        "done": done,
        "troubles": [
            {"what": one.what, "found": one.found, "plan": one.plan, "lost": one.lost} for one in found.troubles
        ],
    }


def _print(found: Examination, *, done: bool) -> None:
    for one in found.troubles:
        print(f"{one.what}: {one.found}")
        print(f"  {'did ' if done else 'plan'}  {one.plan}")
        print(f"  lost  {one.lost}")
    if not found.home.reports_path.exists() and not done:
        print("reports.db is not there: it is made again by itself")
    if not found.troubles:
        print("nothing to recover")
    elif done:
        print("done; openrouter-audit verify proves it")
    else:
        print("nothing was changed; openrouter-audit recover --yes does it")
