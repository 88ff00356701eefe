"""
What a home lost, found out without changing anything.

Files are looked at in the order in which a crash, or a program that goes on meanwhile, cannot make them look lost: the spool
before the journal that takes it in, the journal before the vault that is written first.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import apsw

from openrouter_audit.core.checkpoints import Policy, decode_policy
from openrouter_audit.core.notes import decode_base64
from openrouter_audit.errors import HomeError, JournalUnavailable, NoteError, PolicyError
from openrouter_audit.journal.former import former_folders
from openrouter_audit.journal.history import History, read_history
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import (
    SEALING_FILE,
    LogKeys,
    load_keys,
    load_sealing_public_key,
)
from openrouter_audit.journal.segments import SUFFIX
from openrouter_audit.journal.sqlite import open_connection
from openrouter_audit.verification.source import KnownHead

Reason = Literal["restored", "put_back", "forked", "damaged", "journal_lost", "keys_lost"]
_SEGMENT: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that is not as it should be, for a person to read."""

    what: str
    """A file or folder of the home: `journal`, `keys`, `vault`, `spool`, `head`, `sealing_key`, `recovery`."""
    found: str
    plan: str
    lost: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LostSegment:
    """A segment that is not read to its end, and whose file is gone."""

    segment: str
    has_counts: bool


@dataclass(slots=True, kw_only=True)
class Examination:
    """What was found in a home, and what `recover` would do. Nothing was changed."""

    home: Home
    history: History
    troubles: list[Trouble] = field(default_factory=list)
    reason: Reason | None = None
    """Why a successor is needed, if one is."""
    origin: str = ""
    """Of the log that is there."""
    signed: KnownHead | None = None
    """The newest head known to have been signed, where that is known."""
    policy: Policy | None = None
    begun: bool = False
    """An earlier recovery was not ended."""
    vault: Literal["whole", "missing", "damaged"] = "whole"
    people_lost: int | None = None
    """References in the journal that the vault does not know; None where nothing has to be said."""
    segments_lost: list[LostSegment] = field(default_factory=list)
    head_lost: bool = False
    sealing_lost: bool = False


# Looking ----------------------------------------------------------------------------------------------------------


def examine(home: Home, *, policy: Policy | None = None, heads: Sequence[KnownHead] = ()) -> Examination:
    """
    Find out what a home lost. Changes nothing.

    Args:
        policy: Pinned keys and least size, from outside; else the one in the home.
        heads: States that were signed, written down outside of the home.

    Raises:
        HomeError: There is nothing here to go by.
        VerificationError: A head from outside is of another log.
    """
    if home.succession_dir.exists():
        found = Examination(home=home, history=History(), begun=True)
        found.troubles.append(
            Trouble(
                what="recovery",
                found="a recovery was begun here and not ended",
                plan="end it: the successor log is whole and is put into its place",
                lost="nothing",
            )
        )
        return found
    policy = policy or _read_policy(home)
    # The spool first: a segment that the journal takes in meanwhile is final there, and not missed.
    segments, states = _spooled(home)
    own = _own_head(home)
    least = (
        []
        if policy is None
        else [
            KnownHead(origin=origin, tree_size=size.tree_size, root_hash=size.root_hash)
            for origin, size in policy.least_sizes.items()
        ]
    )
    known = [*heads, *([own] if own is not None else []), *least]
    history = read_history(home.journal_path, policy, [head.tree_size for head in known])
    keys = _read_keys(home)
    origin = _origin_of(home, history, own, keys, policy)
    found = Examination(home=home, history=history, origin=origin, policy=policy)
    for head in heads:
        if head.origin != origin:
            raise HomeError(f"the old head is of the log {head.origin}, here is {origin}", home=str(home.path))
    outside = [head for head in known if head.origin == origin and (head is not own or not home.backup_path.exists())]
    _judge_journal(found, outside, keys, told=bool(heads) or own is not None)
    _judge_head(found, own)
    _judge_keys(found, keys)
    _judge_spool(found, segments, states)
    _judge_vault(found)
    return found


def _judge_journal(found: Examination, outside: Sequence[KnownHead], keys: LogKeys | None, *, told: bool) -> None:
    """Decide whether this journal may go on, and which head of it is the newest one known."""
    history, home = found.history, found.home
    newest = max(outside, key=lambda head: head.tree_size, default=None)
    forked = any(
        head.tree_size <= history.size and history.roots.get(head.tree_size) != head.root_hash for head in outside
    )
    behind = newest is not None and newest.tree_size > history.size
    if history.missing:
        found.reason, said = "journal_lost", "journal.db is not there"
    elif history.fault is not None:
        found.reason, said = "damaged", f"journal.db is damaged: {history.fault}"
    elif home.backup_path.exists():
        found.reason = "restored"
        said = f"this home is a backup, made when the log had {history.size} entries; the log may have gone on since"
    elif behind and newest is not None:
        found.reason = "put_back"
        said = f"journal.db was put back: it has {history.size} entries, and {newest.tree_size} were signed"
    elif forked:
        found.reason, said = "forked", "journal.db is not what was signed before: its root is another one"
    elif keys is None or keys.origin != found.origin:
        found.reason, said = "keys_lost", "the keys that sign the log cannot be read, or are of another log"
    else:
        return
    found.signed = newest = _newest_signed(found, newest, forked=forked, told=told)
    lost = "nothing"
    if newest is None or found.reason == "forked":
        lost = f"what was signed after these {history.size} entries, if anything was: nobody here knows"
    elif newest.tree_size > history.size:
        lost = f"entries {history.size} to {newest.tree_size - 1}, but for those that still wait in the spool"
    kept = f"the {history.size} entries that are here" if history.size else "what is left of it"
    found.troubles.append(
        Trouble(
            what="keys" if found.reason == "keys_lost" else "journal",
            found=said,
            plan=f"open a successor log with new keys; keep {kept} in former/{next_number(home)}",
            lost=lost,
        )
    )


def _newest_signed(found: Examination, newest: KnownHead | None, *, forked: bool, told: bool) -> KnownHead | None:
    """
    The newest head that was signed; None where nobody here can know it.

    Args:
        told: A head file or somebody outside of the home speaks of it, not only the least size of a policy.
    """
    history = found.history
    if found.reason == "restored":  # what a backup knows of itself says nothing of what came after
        return newest if newest is not None and newest.tree_size >= history.size else None
    inside = None
    if history.head is not None and not history.missing and not forked:
        inside = KnownHead(origin=found.origin, tree_size=history.head.tree_size, root_hash=history.head.root_hash)
    if inside is not None and (newest is None or newest.tree_size < inside.tree_size):
        # A head file may be one commit behind its journal.
        newest = inside
    return newest if told or (newest is not None and newest.tree_size > history.size) else None


def _judge_head(found: Examination, own: KnownHead | None) -> None:
    if own is None and not found.history.missing:
        found.head_lost = True
        found.troubles.append(
            Trouble(
                what="head",
                found="the head file is not there or cannot be read",
                plan="make it from the journal, and record that it was lost",
                lost="the means to notice, up to now, that the journal was put back",
            )
        )


def _judge_keys(found: Examination, keys: LogKeys | None) -> None:
    home = found.home
    sealing = home.keys_dir / SEALING_FILE
    with contextlib.suppress(HomeError):
        load_sealing_public_key(home.keys_dir)
        if keys is not None or sealing.exists():
            return
    found.sealing_lost = True
    found.troubles.append(
        Trouble(
            what="sealing_key",
            found="the key that opens the spool cannot be read",
            plan="make a new one; programs that record must be started again",
            lost="what waits in the spool and was sealed for a key that is gone; each record becomes a log.unreadable",
        )
    )


def _judge_spool(found: Examination, segments: set[str], states: set[str]) -> None:
    history = found.history
    open_ones = {name for name, position in history.positions.items() if not position.final}
    open_ones |= {name for name in history.seen if name not in history.positions}
    final = {name for name, position in history.positions.items() if position.final}
    lost = sorted((open_ones | states) - segments - final)
    # A recovery's own segment never had a file, and is final in a journal that is whole.
    if found.history.fault is not None:
        lost = [name for name in lost if name in states or name in history.positions]
    found.segments_lost = [LostSegment(segment=name, has_counts=name in states) for name in lost]
    missing = not found.home.spool_dir.is_dir()
    telling = [name for name in lost if name in states or found.reason is None]
    if missing or telling:
        found.troubles.append(
            Trouble(
                what="spool",
                found=(
                    "the folder spool is not there"
                    if missing
                    else f"{len(telling)} segments of the spool are gone before they were read to their end"
                ),
                plan="record what is missing, segment by segment, and end the calls that were open in them as unknown;"
                " if you still have the files, put them back first",
                lost="records that were spooled and not committed; the state files say how many",
            )
        )


def _judge_vault(found: Examination) -> None:
    """After the journal was read: the vault is written first, so it is not behind."""
    history, path = found.history, found.home.vault_path
    known: set[str] = set()
    if not path.exists():
        found.vault = "missing"
    else:
        try:
            known = _references(path)
        except (JournalUnavailable, apsw.Error):
            found.vault = "damaged"
    unknown = {
        reference
        for reference, index in history.subjects.items()
        if index > history.last_vault_loss and reference not in known
    }
    if unknown or (found.vault != "whole" and history.calls):
        found.people_lost = len(unknown)
    if found.people_lost is not None or found.vault == "damaged":
        said = {"missing": "vault.db is not there", "damaged": "vault.db is damaged"}
        found.troubles.append(
            Trouble(
                what="vault",
                found=said.get(found.vault, f"vault.db does not know {len(unknown)} people that the journal refers to"),
                plan="go on with "
                + ("what is there" if found.vault == "whole" else "a new one")
                + ", and record the loss; a vault.db from a backup can be put here first",
                lost=f"names, sessions and tags of the calls so far, of {len(unknown)} references; the proof is untouched",
            )
        )


def _references(path: Path) -> set[str]:
    connection = open_connection(path, read_only=True)
    try:
        if connection.execute("PRAGMA integrity_check(1)").get != "ok":
            raise JournalUnavailable(f"{path.name} is damaged")
        return {row[0] for row in connection.execute("SELECT reference FROM subjects")}
    finally:
        connection.close()


def _read_policy(home: Home) -> Policy | None:
    try:
        return decode_policy(home.policy_path.read_bytes())
    except (OSError, PolicyError):
        return None


def _read_keys(home: Home) -> LogKeys | None:
    try:
        return load_keys(home.keys_dir)
    except HomeError:
        return None


def _own_head(home: Home) -> KnownHead | None:
    head = home.read_head()
    if head is None:
        return None
    try:
        return KnownHead(origin=head[0], tree_size=head[1], root_hash=decode_base64(head[2]))
    except NoteError:
        return None


def _origin_of(home: Home, history: History, own: KnownHead | None, keys: LogKeys | None, policy: Policy | None) -> str:
    if history.head is not None:
        return history.head.origin
    if own is not None:
        return own.origin
    if keys is not None:
        return keys.origin
    if policy is not None:
        return next(iter(policy.logs))
    raise HomeError(f"there is no log in {home.path}, nor what is left of one", home=str(home.path))


def _spooled(home: Home) -> tuple[set[str], set[str]]:
    """
    Segments that have a file, and those that have a page of counts.

    Pages first: a segment's page is made just before its file gets its name, and removed just before it.
    """
    states = {path.name for path in listed(home.state_dir) if _SEGMENT.fullmatch(path.name)}
    segments = {path.stem for path in listed(home.spool_dir) if path.suffix in {SUFFIX, ".new"}}
    return segments, states


def listed(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def next_number(home: Home) -> int:
    folders = former_folders(home.former_dir)
    return int(folders[-1].name) + 1 if folders else 1
