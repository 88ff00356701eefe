"""`openrouter-audit init`: make a home."""

from __future__ import annotations

from openrouter_audit.cli.common import HomeOption
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.sqlite import SqliteJournal


def init(*, home: HomeOption = None, origin: str | None = None) -> None:
    """
    Make a home: keys, policy and an empty log with a signed checkpoint. A home that is there stays as it is.

    Parameters
    ----------
    origin:
        Name of the log in its checkpoints, for example audit.example.com/gateway; by default a random one.
    """
    located = Home.locate(home)
    located.ensure(origin=origin)
    with SqliteJournal.open(located.journal_path, read_only=True) as journal:
        head = journal.head()
    print(f"home    {located.path}")
    print(f"origin  {head.origin}")
    print(f"entries {head.tree_size}")
    print(f"policy  {located.policy_path}")
