"""`openrouter-audit verify`: is all that was recorded still there, unchanged, and signed?"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter

from openrouter_audit.core.checkpoints import decode_policy
from openrouter_audit.core.entries import LogSuccessor
from openrouter_audit.core.notes import decode_base64, encode_base64
from openrouter_audit.errors import NoteError, OpenRouterAuditError
from openrouter_audit.journal.evidence import JournalEvidence
from openrouter_audit.journal.former import FormerLogs, former_folders, root_of_entries
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.segments import HEADER_BYTES, SUFFIX
from openrouter_audit.verification.findings import VerificationReport, finding
from openrouter_audit.verification.source import KnownHead
from openrouter_audit.verification.verifier import Progress, Verifier

_LONG_LOG: Final = 100_000
"""A log of so many entries takes long enough for a progress line."""
_HEADLINES: Final = {
    "proven": "PROVEN: every entry is as it was signed, and none is missing",
    "tampered": "TAMPERED: what is here is not what was signed",
    "incomplete": "INCOMPLETE: what is here is genuine, and something is known to be missing",
    "cannot_tell": "CANNOT TELL: nothing was proven",
}
_COLOURS: Final = {"proven": "32", "tampered": "31", "incomplete": "33", "cannot_tell": "33"}


def verify(
    *,
    home: Annotated[
        Path | None,
        Parameter(
            help="Where the log is; default $OPENROUTER_AUDIT_HOME, else openrouter-audit in the XDG data folder."
        ),
    ] = None,
    policy: Path | None = None,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
    reports: bool = True,
    now: bool = False,
) -> int:
    """
    Prove that nothing was changed, removed or added, or say what was.

    Reads only: it never drains, signs or writes. Exits 0 proven, 1 tampered, 2 incomplete, 3 cannot tell.

    Parameters
    ----------
    policy:
        Pinned keys, least size and quorum; by default the one in the home. Your own copy proves more.
    reports:
        Also make reports.db again from the entries and compare, which takes longer than all the rest.
    now:
        Measure how long intents wait by this machine's clock, not by the time of the checkpoint.
    """
    with _progress_line() as progress:
        report = verify_home(
            Home.locate(home),
            policy_path=policy,
            check_reports=reports,
            progress=progress,
            now_us=time.time_ns() // 1000 if now else None,
        )
    if reports and not Home.locate(home).reports_path.exists():
        print("openrouter-audit: there is no reports.db to compare with the entries", file=sys.stderr)
    if format == "json":
        print(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        _print_table(report)
    return report.exit_code


def verify_home(
    home: Home,
    *,
    policy_path: Path | None = None,
    check_reports: bool = True,
    progress: Progress | None = None,
    now_us: int | None = None,
) -> VerificationReport:
    """
    Verify a home and everything in it that can be held against the log. Whatever cannot be read is `cannot_tell`.

    The order of looking makes a log that grows meanwhile look consistent: what may be behind is read first.
    """
    if not home.exists and not home.journal_path.exists():
        return VerificationReport(verdict="cannot_tell", reason=f"there is no log in {home.path}")
    try:
        policy = decode_policy((policy_path or home.policy_path).read_bytes())
        heads = _known_heads(home)
        spooled = _spooled(home)
        shown = None
        if check_reports:
            from openrouter_audit.cli.report_check import ShownReports

            shown = ShownReports.open(home.reports_path)
        try:
            with JournalEvidence.open(home.journal_path) as evidence:
                verifier = Verifier(evidence, policy, known_heads=heads, progress=progress, now_us=now_us)
                report = verifier.verify()
                _check_spool(verifier, evidence, spooled)
                if not home.head_path.exists():
                    verifier.findings.add("head_lost", "there is no head file: a rollback need not be noticed")
                check_former(verifier, evidence, home)
                # Rows are held against entries only where the entries are the signed ones, or nothing else tells
                # which of them is not.
                if shown is not None and not any(one.kind.startswith("entry_") for one in report.findings):
                    _check_reports(verifier, evidence, shown, report, home)
                return verifier.report()
        finally:
            if shown is not None:
                shown.close()
    except FileNotFoundError as error:
        return VerificationReport(verdict="cannot_tell", reason=f"{Path(error.filename or '').name} does not exist")
    except OSError as error:
        return VerificationReport(
            verdict="cannot_tell", reason=f"{Path(error.filename or '').name} cannot be read: {error.strerror}"
        )
    except OpenRouterAuditError as error:
        return VerificationReport(verdict="cannot_tell", reason=str(error))


def _known_heads(home: Home) -> tuple[KnownHead, ...]:
    """The head file; one that a crash left unreadable says as much as one that is not there."""
    head = home.read_head()
    if head is None:
        return ()
    origin, size, root = head
    try:
        return (KnownHead(origin=origin, tree_size=size, root_hash=decode_base64(root)),)
    except NoteError:
        return ()


def _spooled(home: Home) -> dict[str, int]:
    """Size of each segment file, by segment."""
    if not home.spool_dir.is_dir():
        return {}
    sizes = {}
    with os.scandir(home.spool_dir) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    sizes[entry.name.removesuffix(SUFFIX)] = entry.stat().st_size
                except FileNotFoundError:  # it is in the journal by now
                    continue
    return sizes


def _check_spool(verifier: Verifier, evidence: JournalEvidence, spooled: dict[str, int]) -> None:
    positions = evidence.positions()
    for segment, size in sorted(spooled.items()):
        position = positions.get(segment)
        waiting = size - (HEADER_BYTES if position is None else position.offset)
        if waiting > 0:
            verifier.findings.add("undrained_spool", f"{waiting} bytes of segment {segment} are not yet in the journal")


def check_former(verifier: Verifier, evidence: JournalEvidence, home: Home) -> None:
    """
    Hold the logs before this one against what their successors say of them, from the newest to the oldest.

    A successor signed size and root of what it found, so a former log that was changed since then is found out by that,
    whoever has its old keys. Its own signatures are a matter of `verify --home <home>/former/<n>`.
    """
    said = _succession(evidence)
    for folder in reversed(former_folders(home.former_dir)):
        if said is None:
            return
        path = folder / "journal.db"
        if not path.exists():
            if said.kept_size:
                verifier.findings.add("succession", f"the log {said.former} is not here", severity="incomplete")
            return
        with JournalEvidence.open(path) as former:
            size, root = root_of_entries(former.batches(0), until=said.kept_size)
            if (size, root) != (said.kept_size, bytes.fromhex(said.kept_root)):
                verifier.findings.add(
                    "root_mismatch",
                    f"former/{folder.name}: the log {said.former} was kept with {said.kept_size} entries and root"
                    f" {said.kept_root}, here are {size} with root {root.hex()}",
                )
            said = _succession(former)
    if said is not None and said.kept_size:
        verifier.findings.add("succession", f"the log {said.former} is not here", severity="incomplete")


def _succession(evidence: JournalEvidence) -> LogSuccessor | None:
    """What a log's first entry says of the log before it, where it says that."""
    for _, text in evidence.texts(0, 1):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(text, type=LogSuccessor)
    return None


def _check_reports(
    verifier: Verifier, evidence: JournalEvidence, shown: object, report: VerificationReport, home: Home
) -> None:
    from openrouter_audit.cli.report_check import ShownReports

    assert isinstance(shown, ShownReports)  # noqa: S101 - the type is named here only to load it late
    former = FormerLogs.open(home.former_dir)
    try:
        verifier.findings.take(shown.compare(evidence, tree_size=report.tree_size or 0, former=former))
    except OpenRouterAuditError:
        if report.verdict != "tampered":  # a damaged log need not be projectable
            raise
    except ValueError as error:
        if report.verdict != "tampered":
            verifier.findings.take([finding("report_mismatch", f"the entries cannot be projected: {error}")])
    finally:
        former.close()


# Showing -------------------------------------------------------------------------------------------------------


def _print_table(report: VerificationReport) -> None:
    headline = _HEADLINES[report.verdict]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        headline = f"\x1b[1;{_COLOURS[report.verdict]}m{headline}\x1b[0m"
    print(headline)
    if report.reason is not None:
        print(f"  {report.reason}")
    if report.origin is not None and report.root_hash is not None:
        counts = report.counts
        print(f"  log         {report.origin}")
        print(f"  checkpoint  {report.tree_size} entries, root {encode_base64(report.root_hash)}, {_time(report)}")
        print(
            f"  calls       {counts.intents} intents, {counts.outcomes} outcomes ({counts.unknown} unknown),"
            f" {counts.losses} losses"
        )
    for one in report.findings:
        index = "" if one.index is None else f" at entry {one.index}"
        print(f"  {one.severity:<10}  {one.kind}{index}: {one.detail}")


def _time(report: VerificationReport) -> str:
    if report.checkpoint_time_us is None:
        return "not signed as it must be"
    moment = time.gmtime(report.checkpoint_time_us // 1_000_000)
    return f"signed {time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)}"


@contextmanager
def _progress_line() -> Iterator[Progress | None]:
    """One line on stderr that is written over, for long logs on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = False

    def show(done: int, size: int) -> None:
        nonlocal shown
        if size >= _LONG_LOG:
            shown = True
            print(f"\r{done:,} of {size:,} entries", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
