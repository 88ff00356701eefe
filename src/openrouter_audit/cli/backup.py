"""`openrouter-audit backup`: copy the home while programs record, and prove the copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from openrouter_audit.audit_log import require_home
from openrouter_audit.cli import EXIT_BAD_DATA
from openrouter_audit.cli.common import HomeOption, drained, hint, now_us, progress
from openrouter_audit.cli.verify import verify_home
from openrouter_audit.core.notes import encode_base64
from openrouter_audit.errors import VerificationError
from openrouter_audit.journal.backup import Backup, copy_home, find_changes, partial_folder
from openrouter_audit.journal.home import Home


def backup(
    directory: Path,
    /,
    *,
    home: HomeOption = None,
    with_keys: bool = False,
    format: Literal["table", "json"] = "table",  # noqa: A002 - the option's name (C3)
) -> int:
    """
    Copy journal, vault, policy and settings into a new folder, one state of each, and verify the copy.

    Not the reports (they are made again), not the spool, and not the private keys. Exits 65 where the copy does not
    verify; then there is no folder.

    Parameters
    ----------
    directory:
        A new or empty folder, not inside of the home. It has all names in it: keep it as you keep the home.
    with_keys:
        Copy the private keys too. Whoever reads them can sign in the log's name.
    """
    located = require_home(home)
    with drained(located.path):
        pass  # what is spooled now is in the journal, as far as that can be had in time
    try:
        with partial_folder(directory, home=located) as partial:
            made = _copy_and_prove(located, partial, with_keys=with_keys)
    except VerificationError as error:
        hint(f"no backup was made: {error}")
        return EXIT_BAD_DATA
    if with_keys:
        hint("the private keys are in this backup: whoever reads it can sign in the log's name")
    else:
        hint("the private keys are not in this backup: a restored home gets new ones from openrouter-audit recover")
    root = encode_base64(made.root_hash)
    if format == "json":
        shape = {
            "directory": str(directory),
            "origin": made.origin,
            "tree_size": made.tree_size,
            "root": root,
            "files": made.files,
            "bytes": made.file_bytes,
            "with_keys": made.with_keys,
        }
        print(json.dumps(shape, ensure_ascii=False))
    else:
        print(f"{made.origin}: {made.tree_size} entries, root {root}, {made.files} files, {made.file_bytes} bytes")
    return 0


def _copy_and_prove(home: Home, partial: Path, *, with_keys: bool) -> Backup:
    """
    The copy, read again from where it stands.

    Raises:
        VerificationError: It is not what was signed, or not what was written.
    """
    with progress("copying", None) as show:
        made = copy_home(home, partial, with_keys=with_keys, at_us=now_us(), progress=show)
    report = verify_home(Home(partial), check_reports=False)
    if report.verdict not in {"proven", "incomplete"}:
        what = report.reason or "; ".join(one.detail for one in report.findings[:3])
        raise VerificationError(f"the copy does not verify ({report.verdict}: {what})")
    if (report.tree_size, report.root_hash) != (made.tree_size, made.root_hash):
        raise VerificationError("the copy does not have the size and root that were read")
    for path in partial.rglob("*-shm"):
        path.unlink()
    for path in partial.rglob("*-wal"):
        path.unlink()  # of length 0: the copy was only read
    changed = find_changes(Home(partial))
    if changed:
        raise VerificationError(f"{', '.join(changed)} changed while it was copied")
    return made
