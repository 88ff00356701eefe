"""
A log under a policy: what it claims, what it holds, and the verdict.

The order is that of trust. First the checkpoint, by the pinned keys; then, in one pass, the entries against tiles and root
and against each other; then what was written down elsewhere, older checkpoints and the head file, which tell a log that was
put back, or has two histories, from one that only grew. A checkpoint that fails is not the end: what can be said without
it is still said, because it tells what happened.

Nothing here reads a clock. Open intents are measured against the time of the checkpoint, so that a copy gives the same
verdict today and in ten years, unless the caller gives another time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import chain, takewhile
from typing import Final

from openrouter_audit.core.checkpoints import Checkpoint, LeastSize, OpenedCheckpoint, Policy, open_checkpoint
from openrouter_audit.core.merkle import TILE_WIDTH
from openrouter_audit.core.notes import ED25519, ML_DSA_44_COSIGNATURE, encode_base64, parse_note, parse_tree_head
from openrouter_audit.errors import (
    CheckpointError,
    NoteError,
    PolicyError,
    QuorumMissing,
    RolledBack,
    RootMismatch,
    UnknownOrigin,
)
from openrouter_audit.verification.calls import CallCheck
from openrouter_audit.verification.findings import Findings, VerificationReport, finding, verdict_of
from openrouter_audit.verification.source import KnownHead, LogSource, ShownHead
from openrouter_audit.verification.tree import TreeCheck, TreeResult

Progress = Callable[[int, int], None]
"""Called now and then with entries done and entries in all."""
_PROGRESS_EVERY: Final = 64 * TILE_WIDTH


def require_both_keys(policy: Policy, origin: str) -> None:
    """
    Refuse a policy under which breaking one algorithm would break the log.

    Raises:
        PolicyError: It pins not both an Ed25519 and an ML-DSA-44 key for this log.
    """
    pinned = {key.key_type for key in policy.logs.get(origin, ())}
    if origin in policy.logs and pinned != {ED25519, ML_DSA_44_COSIGNATURE}:
        raise PolicyError(f"{origin} must have one key of type 0x01 and one of type 0x06; both must sign")


class Verifier:
    """
    Verifies one log. Use an instance once.

    Args:
        known_heads: States that were written down outside the store; all must be on this log's way.
        progress: Told how far the pass over the entries is.
        now_us: Measure open intents against this time rather than that of the checkpoint.
    """

    def __init__(
        self,
        source: LogSource,
        policy: Policy,
        *,
        known_heads: tuple[KnownHead, ...] = (),
        progress: Progress | None = None,
        now_us: int | None = None,
    ) -> None:
        self._source, self._policy = source, policy
        self._known_heads, self._progress, self._now_us = known_heads, progress, now_us
        self.findings = Findings()
        """More may be added by a caller who checks what lies beyond this room; then ask for `report` again."""
        self._opened: OpenedCheckpoint | None = None
        self._checkpoint: Checkpoint
        self._calls = CallCheck()
        self._beyond: list[int] = []

    def verify(self) -> VerificationReport:
        """
        Check everything and come to a verdict.

        Raises:
            PolicyError: The policy does not pin both keys of this log.
            UnknownOrigin: It pins none.
            OpenRouterAuditError: The store cannot be read.
        """
        head = self._source.head()
        self._checkpoint = self._open(head)
        kept = self._open_kept()
        earlier = {**kept, **self._elsewhere()}
        tree = TreeCheck(
            tree_size=self._checkpoint.tree_size,
            root_hash=self._checkpoint.root_hash,
            read_tile=self._source.tile,
            edge=head.edge,
            sizes=[size for size, _ in earlier],
        )
        self._read_entries(tree)
        result = tree.finish()
        self._judge_tree(tree, result, earlier)
        self._judge_tiles()
        self._judge_calls(result, head)
        return self.report()

    def report(self) -> VerificationReport:
        """The verdict over all that was found so far."""
        findings = self.findings.all()
        time_s = None if self._opened is None else self._opened.time_s
        return VerificationReport(
            verdict=verdict_of(findings),
            origin=self._checkpoint.origin,
            tree_size=self._checkpoint.tree_size,
            root_hash=self._checkpoint.root_hash,
            checkpoint_time_us=None if time_s is None else time_s * 1_000_000,
            counts=self._calls.counts,
            findings=findings,
        )

    # Checkpoints ------------------------------------------------------------------------------------------------

    def _open(self, head: ShownHead) -> Checkpoint:
        """The newest checkpoint; unsigned or wrongly signed it is a finding, and its claims are still looked at."""
        checkpoint = Checkpoint(origin=head.origin, tree_size=head.tree_size, root_hash=head.root_hash)
        try:
            text = parse_tree_head(parse_note(head.note).text)
            checkpoint = Checkpoint(origin=text.origin, tree_size=text.tree_size, root_hash=text.root_hash)
        except (NoteError, CheckpointError) as error:
            if checkpoint.origin not in self._policy.logs:
                raise UnknownOrigin(origin=checkpoint.origin) from error
            self.findings.add("checkpoint_signature", f"the checkpoint cannot be read: {error}")
            require_both_keys(self._policy, checkpoint.origin)
            return checkpoint
        require_both_keys(self._policy, checkpoint.origin)
        shown = (head.origin, head.tree_size, head.root_hash)
        if shown != (checkpoint.origin, checkpoint.tree_size, checkpoint.root_hash):
            self.findings.add(
                "rollback" if head.tree_size < checkpoint.tree_size else "root_mismatch",
                f"the head row says size {head.tree_size} root {head.root_hash.hex()}, its checkpoint says"
                f" size {checkpoint.tree_size} root {checkpoint.root_hash.hex()}",
            )
        try:
            self._opened = self._policy.open_checkpoint(head.note)
        except (RolledBack, RootMismatch):
            keys = self._policy.logs[checkpoint.origin]  # signed, and held against the least size below, with the root
            self._opened = open_checkpoint(head.note, log_keys=keys)
        except (NoteError, CheckpointError, QuorumMissing) as error:
            self.findings.add("checkpoint_signature", str(error))
        return checkpoint

    def _open_kept(self) -> dict[tuple[int, bytes], str]:
        """Size and root of the older checkpoints whose signatures hold."""
        origin = self._checkpoint.origin
        kept = {}
        for size, note in self._source.checkpoints():
            try:
                opened = open_checkpoint(note, log_keys=self._policy.logs[origin])
            except (NoteError, CheckpointError) as error:
                self.findings.add("checkpoint_signature", f"the checkpoint kept at size {size}: {error}")
                continue
            kept[opened.checkpoint.tree_size, opened.checkpoint.root_hash] = "a kept checkpoint"
            if size != opened.checkpoint.tree_size:
                self.findings.add(
                    "checkpoint_signature",
                    f"the checkpoint kept at size {size} is of size {opened.checkpoint.tree_size}",
                )
        return kept

    def _elsewhere(self) -> dict[tuple[int, bytes], str]:
        """Size and root of what is known from outside the store."""
        origin = self._checkpoint.origin
        known = {}
        least: LeastSize | None = self._policy.least_sizes.get(origin)
        if least is not None:
            known[least.tree_size, least.root_hash] = "the policy"
        for head in self._known_heads:
            if head.origin == origin:
                known[head.tree_size, head.root_hash] = "the head file"
            else:
                self.findings.add("fork", f"the head file is of the log {head.origin}, this is {origin}")
        return known

    # Entries ----------------------------------------------------------------------------------------------------

    def _read_entries(self, tree: TreeCheck) -> None:
        """One pass over all rows: whole blocks of 256 by the short way, what has gaps or is the last by the long one."""
        size = self._checkpoint.tree_size
        batches = self._numbered()
        rows: list[tuple[int, bytes]] = []
        base = at = 0
        hash_ = sha256
        while base < size:
            end = min(base + TILE_WIDTH, size)
            while len(rows) - at < TILE_WIDTH and (more := next(batches, None)) is not None:
                rows, at = rows[at:] + more, 0
            block = rows[at : at + TILE_WIDTH]
            if not block:
                tree.add_absent()
                break
            if len(block) == TILE_WIDTH and block[0][0] == base and block[-1][0] == base + TILE_WIDTH - 1 < size:
                tree.add_block([hash_(b"\x00" + text).digest() for _, text in block])
                self._calls.add(block)
                at += TILE_WIDTH
            else:
                block = [row for row in block if row[0] < end]
                at += len(block)
                tree.add_rows({index: hash_(b"\x00" + text).digest() for index, text in block})
                self._calls.add(block)
            base = end
            if self._progress is not None and not base % _PROGRESS_EVERY:
                self._progress(base, size)
        for index, text in chain(rows[at:], chain.from_iterable(batches)):
            tree.add_beyond(index, hash_(b"\x00" + text).digest())
            self._beyond.append(index)
        if self._progress is not None:
            self._progress(size, size)

    def _numbered(self) -> Iterator[list[tuple[int, bytes]]]:
        """The rows from index 0 on: what stands before is named, and is in the way of no other."""
        for batch in self._source.batches():
            if batch and batch[0][0] < 0:
                for index, _ in batch:
                    if index < 0:
                        self.findings.add("entry_extra", "a row with a number no entry has", index=index)
                yield [row for row in batch if row[0] >= 0]
            else:
                yield batch

    # Judging ----------------------------------------------------------------------------------------------------

    def _judge_tree(self, tree: TreeCheck, result: TreeResult, earlier: Mapping[tuple[int, bytes], str]) -> None:
        """Entries and tiles, then whether what was signed or written down before lies on the way here."""
        size, root = self._checkpoint.tree_size, self._checkpoint.root_hash
        pinpointed = any(one.kind.startswith("entry_") for one in result.findings)
        proven, refuted = 0, size
        for (earlier_size, earlier_root), where in sorted(earlier.items()):
            if earlier_size > size:
                self.findings.add("rollback", f"{where} has size {earlier_size}, this log ends at {size}")
            elif earlier_size == size:
                if earlier_root != root:
                    self.findings.add("fork", _two_roots(where, size, earlier_root, root))
            elif tree.roots.get(earlier_size) == earlier_root:
                proven = max(proven, earlier_size)
            else:
                refuted = min(refuted, earlier_size)
                if not pinpointed:  # else the root is another because of an entry that is already named
                    self.findings.add(
                        "fork", _two_roots(where, earlier_size, earlier_root, tree.roots.get(earlier_size, b""))
                    )
        for one in result.findings:
            if one.kind == "root_mismatch":
                reach = f"; the first {proven} entries are as an earlier checkpoint has them" if proven else ""
                reach += f"; the first {refuted} are not" if refuted < size else ""
                only = proven if refuted - proven == 1 else None
                self.findings.add("root_mismatch", one.detail + reach, index=only)
            else:
                self.findings.take([one])

    def _judge_tiles(self) -> None:
        """Tiles that a tree of this size does not have."""
        size = self._checkpoint.tree_size
        for level, n in self._source.tile_names():
            if level < 0 or n < 0 or n >= size >> 8 * (level + 1):
                if self._beyond and level == 0 and n < (max(self._beyond) + 1) // TILE_WIDTH:
                    continue  # over entries beyond the checkpoint, which have a finding of their own
                self.findings.add("tile_mismatch", f"tile {level}/{n} belongs to no tree of size {size}")

    def _judge_calls(self, result: TreeResult, head: ShownHead) -> None:
        positions = self._source.positions()
        if self._calls.suspects:
            rows = chain.from_iterable(self._source.batches(0))
            self._calls.look_closer(takewhile(lambda row: row[0] < self._checkpoint.tree_size, rows), positions)
        now_us = self._now_us
        if now_us is None:
            time_s = None if self._opened is None else self._opened.time_s
            now_us = head.at_us if time_s is None else time_s * 1_000_000
        self._judge_beyond(result)
        found = self._calls.finish(now_us=now_us)
        mismatches = [*self._calls.compare_positions(positions)]
        if not self._beyond:
            mismatches += self._calls.compare_open_calls(self._source.open_calls())
        found += [finding("position_mismatch", mismatch) for mismatch in mismatches]
        if any(one.kind.startswith("entry_") for one in result.findings):
            # The entries are named that are not the signed ones; that others no longer fit them is no second attack.
            found = [one for one in found if one.severity != "tampered"]
        self.findings.take(found)

    def _judge_beyond(self, result: TreeResult) -> None:
        """
        Rows after the last signed one: real ones of which the checkpoint was put back, or rows somebody added.

        The positions tell: they count what the sequencer wrote, whatever checkpoint stands beside it.
        """
        beyond = self._beyond[max(0, result.shift) :]
        if not beyond:
            return
        stated = sum(position.entries for position in self._source.positions().values())
        size = self._checkpoint.tree_size
        if stated == size + len(beyond) and beyond == list(range(size, size + len(beyond))):
            self.findings.add(
                "checkpoint_behind", f"{len(beyond)} entries from {size} on are not covered by the checkpoint"
            )
            self._calls.count_writers(chain.from_iterable(self._source.batches(size)))
        else:
            for index in beyond:
                self.findings.add("entry_extra", f"the signed log ends at {size}", index=index)


def _two_roots(where: str, size: int, one: bytes, other: bytes) -> str:
    return f"at size {size} {where} has root {encode_base64(one)}, this log {encode_base64(other)}"
