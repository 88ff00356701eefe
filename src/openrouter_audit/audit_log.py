"""
AuditLog, what an application holds: it puts the rooms together.

    capture ──► spool ──► sequencer ──► journal.db ──► reports.db
                  ▲                         (threads of whichever process on this home has the lease)
    enricher ─────┘   (thread of every process that has calls to settle)

Nothing is opened and no thread runs before the first record. A capturing process needs the public sealing key and write
access to the spool, nothing else; databases are opened by the process that sequences.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec

from openrouter_audit._version import __version__
from openrouter_audit.capture import explicit, transports
from openrouter_audit.capture.attribution import Receipt
from openrouter_audit.capture.hosts import HostSet
from openrouter_audit.capture.log_line import log_call
from openrouter_audit.capture.log_line import logger as call_logger
from openrouter_audit.capture.recorder import FinishedCall
from openrouter_audit.config import Config, load_config
from openrouter_audit.core.entries import CallIntent, CallOutcome, LogConfig, Mode
from openrouter_audit.core.vocabulary import admit
from openrouter_audit.errors import AlreadyInstalled, ConfigError, FlushTimeout, HomeError, TelemetryUnavailable
from openrouter_audit.journal.forks import no_fork
from openrouter_audit.journal.home import Home
from openrouter_audit.journal.keys import load_sealing_public_key
from openrouter_audit.journal.plain import plain_values
from openrouter_audit.journal.spool import Spool

if TYPE_CHECKING:
    from openrouter_audit.enrichment.enricher import Enricher
    from openrouter_audit.journal.followers import FollowerWorker, SequencerWorker
    from openrouter_audit.reports.projection import Projection
    from openrouter_audit.telemetry.emitter import Emitter, Export

REMEMBERED_RECEIPTS: Final = 10_000
"""Receipts that may still learn a settled cost or an index; older ones keep what they know."""
MODES: Final = get_args(Mode)
_POLL_S: Final = 0.05
_MAX_UNWATCHED: Final = 64

T = TypeVar("T")
collected: ContextVar[list[FinishedCall] | None] = ContextVar("openrouter_audit_collected", default=None)
"""Where `audited_completion` picks up the call it made."""


class AuditLog:
    """
    A recorder on one home, safe to use from any thread.

    After a fork the child records as a process of its own, through the same object.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        *,
        mode: Mode,
        hosts: HostSet,
        sequencer: bool,
        enrich: bool,
        telemetry: bool = True,
    ) -> None:
        """Use `open`."""
        self.home = home
        self.config = config
        self.hosts = hosts
        self.mode: Mode = mode
        sealing_key = load_sealing_public_key(home.keys_dir)
        facts = config.policy_facts(mode=mode, key=sealing_key)
        self.policy: str | None = config.policy(mode=mode, key=sealing_key)
        self.content = config.content_policy()
        self.router_metadata = config.capture.router_metadata
        self._spool = Spool(
            home.spool_dir,
            home.state_dir,
            sealing_key,
            mode=mode,
            policy=self.policy,
            max_bytes=config.capture.spool_max_bytes,
            recorder=f"openrouter-audit/{__version__}",
            settings=LogConfig(v=1, id="0" * 32, at_us=0, policy=self.policy, **facts),
            on_process_start=self._begin_sequencing if sequencer else None,
        )
        self.write = self._spool.write
        self.sync = self._spool.sync
        self._sequencing = sequencer
        self._sequencer: SequencerWorker | None = None
        self._follower: FollowerWorker | None = None
        self._emitter: FollowerWorker | None = None
        self._emits = telemetry and config.otel.enabled
        self._opened_us = time.time_ns() // 1000
        self._workers_lock = threading.RLock()  # a finaliser may come here while its own thread holds it
        self._enriches = enrich and config.enrich.scope != "off"
        self._enricher: Enricher | None = None
        self._log_user_ids = config.capture.log_user_ids
        self._receipts: OrderedDict[str, Receipt] = OrderedDict()
        self._closed = False
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        home: str | os.PathLike[str] | None = None,
        *,
        mode: Mode | None = None,
        hosts: Iterable[str] = (),
        sequencer: bool = True,
        enrich: bool = True,
        telemetry: bool = True,
    ) -> Self:
        """
        Open a home, and make it where there is none.

        Args:
            home: A folder; default `$OPENROUTER_AUDIT_HOME`, else the XDG data folder.
            mode: `buffer`, `strict` or `best_effort`; default the setting `capture.mode`.
            hosts: Watched beside OpenRouter's own and those of the settings, `host` or `host:port`.
            sequencer: Whether this process may turn what is spooled into the journal. With False somebody else must.
            enrich: Whether this process asks what its calls were billed.
            telemetry: Whether this process may tell an OpenTelemetry receiver of calls, where `otel.enabled` says that one is told.

        Raises:
            HomeError: The folder cannot be used; nothing is recorded.
            ConfigError: A setting cannot be meant; nothing is recorded.
        """
        located = Home.locate(home)
        located.ensure()
        config = load_config(located.config_path)
        chosen: Mode = mode or config.capture.mode
        if chosen not in MODES:
            raise ConfigError(f"mode {chosen!r} is none of {', '.join(MODES)}", setting="capture.mode")
        return cls(
            located,
            config,
            mode=chosen,
            hosts=HostSet((*config.capture.hosts, *hosts)),
            sequencer=sequencer,
            enrich=enrich,
            telemetry=telemetry,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Recording --------------------------------------------------------------------------------------------------

    def finished(self, call: FinishedCall) -> None:
        """Hand a call whose outcome is written to log line, receipts and enrichment. Does not block."""
        if call_logger.isEnabledFor(logging.INFO):
            log_call(_admitted(call), log_user_ids=self._log_user_ids)
        if call.receipt is not None:
            self._receipts[call.intent.id] = call.receipt
            if len(self._receipts) > REMEMBERED_RECEIPTS:
                self._receipts.popitem(last=False)
        sink = collected.get()
        if sink is not None:
            sink.append(call)
        if self._enriches:
            from openrouter_audit.enrichment.pending import pending_cost

            pending = pending_cost(
                call.intent, call.outcome, call.private, base_url=call.base_url, api_key=call.api_key
            )
            enricher = None if pending is None else self._enricher or self._begin_enriching()
            if enricher is not None and pending is not None:
                enricher.offer(pending)

    def httpx_client(self, **options: Any) -> Any:
        """A `httpx.Client` whose calls are recorded here, for any SDK that takes one."""
        import httpx

        return explicit.audited_client(httpx, "sync", self, self.hosts, **options)

    def httpx_async_client(self, **options: Any) -> Any:
        import httpx

        return explicit.audited_client(httpx, "async", self, self.hosts, **options)

    def httpx2_client(self, **options: Any) -> Any:
        """A `httpx2.Client` whose calls are recorded here, for any SDK that takes one."""
        import httpx2

        return explicit.audited_client(httpx2, "sync", self, self.hosts, **options)

    def httpx2_async_client(self, **options: Any) -> Any:
        import httpx2

        return explicit.audited_client(httpx2, "async", self, self.hosts, **options)

    def wrap(self, client: T) -> T:
        """Record the calls of an existing client or session, or of the client in an SDK object; returns the same object."""
        return explicit.wrap(client, self, self.hosts)

    def watches(self, base_url: str) -> bool:
        """Whether a URL is on a watched host: keys are sent to no other."""
        parts = urlsplit(base_url)
        return parts.hostname is not None and self.hosts.watches(parts.hostname, parts.port)

    # Waiting ----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 5.0) -> int:
        """
        Return the tree size once everything that was spooled before the call is committed and in the reports.

        Everything: also what other processes on this home have spooled.

        Args:
            timeout: Seconds.

        Raises:
            FlushTimeout: Not all of it is known to be; it stays in the spool, and nothing is lost.
        """
        deadline = time.monotonic() + timeout
        self._note_unwatched()
        self._spool.retry_backlog()
        self._start_workers()
        if self._sequencer is not None and self._sequencer.drain(timeout):
            if self._follower is not None and self._follower.follow(max(0.0, deadline - time.monotonic())):
                self._update_receipts()
                return self._sequencer.tree_size
        elif self._wait_for_other(deadline):
            size = self._project_here()
            self._update_receipts()
            return size
        pending = self.pending()
        raise FlushTimeout(f"after {timeout:g} s {pending} records are not committed and reported", pending=pending)

    def pending(self) -> int:
        """Whole records in the spool that are not committed; 0 also where that cannot be told."""
        from openrouter_audit.journal.drain import count_waiting
        from openrouter_audit.journal.sqlite import SqliteJournal

        with SqliteJournal.open(self.home.journal_path, read_only=True) as journal:
            return count_waiting(self.home.spool_dir, journal.positions())

    def close(self, timeout: float = 2.0) -> None:
        """
        Stop recording here: calls of explicit clients are refused from now on.

        What is spooled is committed if that is done within `timeout` seconds, else by the next process on this home.
        """
        if not self._closed:
            self._end(timeout, closing=True)
            self._closed = True
            _OPEN.discard(self)

    def _end(self, timeout: float, *, closing: bool) -> None:
        deadline = time.monotonic() + timeout
        self._note_unwatched()
        self._enriches = False
        with self._workers_lock:
            enricher = self._enricher
        if enricher is not None:
            enricher.close()
        with contextlib.suppress(RuntimeError):
            if self._spool.has_written:
                self._start_workers()
        self._spool.end(closing=closing)
        with self._workers_lock:
            sequencer, follower, emitter = self._sequencer, self._follower, self._emitter
            self._sequencer = self._follower = self._emitter = None
        if sequencer is not None:
            sequencer.stop(max(0.0, deadline - time.monotonic()))
        if follower is not None:
            follower.stop(max(0.0, deadline - time.monotonic()))
        if emitter is not None:  # the last: a receiver that does not answer takes all the time that is left
            emitter.stop(max(0.0, deadline - time.monotonic()))

    def _note_unwatched(self) -> None:
        """Leave the names of hosts that were asked like OpenRouter and are not watched for `doctor` to find (C12)."""
        strangers = self.hosts.strangers
        if strangers:
            with contextlib.suppress(OSError):
                known = self.home.unwatched_path.read_text().split() if self.home.unwatched_path.exists() else []
                new = [host for host in strangers if host not in known]
                if new and len(known) < _MAX_UNWATCHED:
                    with self.home.unwatched_path.open("a") as file:
                        file.writelines(f"{host}\n" for host in new)
                    self.home.unwatched_path.chmod(0o600)

    # Threads ----------------------------------------------------------------------------------------------------

    def _begin_sequencing(self) -> None:
        """At the first record of a process, on a caller's path: what takes time is left to a thread."""
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: the next process on this home goes on
            threading.Thread(target=self._start_workers, name="openrouter-audit-start", daemon=True).start()

    def _start_workers(self) -> None:
        if not self._sequencing or self._closed:
            return
        with no_fork():  # a child would wait for ever for a module that this thread was importing
            from openrouter_audit.journal.followers import FollowerWorker, SequencerWorker

        with self._workers_lock:
            if self._sequencer is None:
                self._follower = FollowerWorker("reports", self._open_projection)
                self._sequencer = SequencerWorker(self.home, lambda _: self._wake_followers())
                if self._emits:
                    self._emitter = FollowerWorker("otel", self._open_emitter)
            self._sequencer.start()
            for follower in (self._follower, self._emitter):
                if follower is not None:
                    follower.start()

    def _wake_followers(self) -> None:
        for follower in (self._follower, self._emitter):
            if follower is not None:
                follower.wake()

    def _open_projection(self) -> Projection:
        with no_fork():
            from openrouter_audit.reports.projection import Projection

        return Projection.open(self.home.journal_path, self.home.reports_path)

    def _open_emitter(self) -> Emitter:
        settings = self.config.otel

        def make_export() -> Export:
            try:
                with no_fork():
                    from openrouter_audit.telemetry.otlp import OtlpExport
            except ImportError as error:
                raise TelemetryUnavailable(
                    f"[otel] needs the extra: pip install 'openrouter-audit[otel]' ({error})"
                ) from error
            return OtlpExport(settings.schema)

        with no_fork():
            from openrouter_audit.telemetry.emitter import Emitter

        return Emitter(
            journal=self.home.journal_path,
            vault=self.home.vault_path,
            place=self.home.path / "telemetry",
            since_us=self._opened_us,
            make_export=make_export,
            user_ids=settings.user_ids,
        )

    def _begin_enriching(self) -> Enricher | None:
        """With the first call that may have been billed; None where recording has ended meanwhile."""
        with no_fork():
            from openrouter_audit.enrichment.enricher import Enricher

        settings = self.config.enrich
        with self._workers_lock:
            if self._enricher is None and self._enriches and settings.scope != "off":
                self._enricher = Enricher(
                    self,
                    scope=settings.scope,
                    horizon_hours=settings.horizon_hours,
                    max_per_second=settings.max_per_second,
                    watches=self.watches,
                    on_cost=self._learn_cost,
                )
            return self._enricher

    # What others do ---------------------------------------------------------------------------------------------

    def _wait_for_other(self, deadline: float) -> bool:
        """Another process sequences: wait until its positions cover what is spooled now."""
        from openrouter_audit.journal.drain import waiting_frames
        from openrouter_audit.journal.sqlite import SqliteJournal

        with SqliteJournal.open(self.home.journal_path, read_only=True) as journal:
            wanted = waiting_frames(self.home.spool_dir, journal.positions())
            while True:
                positions = journal.positions()
                if all(
                    (position := positions.get(segment)) is not None and (position.final or position.offset >= end)
                    for segment, (_, end) in wanted.items()
                ):
                    return True
                if time.monotonic() >= deadline:
                    return False
                if self._sequencer is not None and self._sequencer.holds_lease:
                    self._sequencer.drain(max(0.0, deadline - time.monotonic()))  # the other one is gone
                time.sleep(_POLL_S)

    def _project_here(self) -> int:
        projection = self._open_projection()
        try:
            return projection.follow()
        finally:
            projection.close()

    # Receipts ---------------------------------------------------------------------------------------------------

    def _learn_cost(self, call_id: str, total_cost: str) -> None:
        receipt = self._receipts.get(call_id)
        if receipt is not None:
            receipt.total_cost = Decimal(total_cost)

    def _update_receipts(self) -> None:
        unknown = [call for call, receipt in list(self._receipts.items()) if receipt.entry_index is None]
        if not unknown:
            return
        from openrouter_audit.reports.tables.sqlite import SqliteReports

        with SqliteReports.open(self.home.reports_path, read_only=True) as reports:
            for row in reports.rows_of(unknown):
                receipt = self._receipts.get(row["call_id"])
                if receipt is not None:
                    receipt.entry_index = row["outcome_index"]


def _admitted(call: FinishedCall) -> FinishedCall:
    """The call as the journal will tell it: a key given in the place of a model's name is not for a log line either."""
    intent, outcome = admit(plain_values(call.intent)), admit(plain_values(call.outcome))
    if isinstance(intent, CallIntent) and isinstance(outcome, CallOutcome):
        return msgspec.structs.replace(call, intent=intent, outcome=outcome)
    return call


_installed: AuditLog | None = None
_install_lock = threading.Lock()
_OPEN: weakref.WeakSet[AuditLog] = weakref.WeakSet()


def install(
    home: str | os.PathLike[str] | None = None, *, hosts: Iterable[str] = (), mode: Mode | None = None
) -> AuditLog:
    """
    Record every call that this process makes to OpenRouter through httpx, httpx2, aiohttp or requests, from now on.

    Covers existing clients and future ones, and so the SDKs built on them. Idempotent.

    Raises:
        AlreadyInstalled: With another home; the first one goes on.
        HomeError: The home cannot be used; nothing is recorded.
        ConfigError: A setting cannot be meant; nothing is recorded.
    """
    global _installed  # noqa: PLW0603 - the patch of a module is process-wide, and so is what it records to
    with _install_lock:
        if _installed is not None:
            requested = Home.locate(home)
            if requested.path != _installed.home.path:
                raise AlreadyInstalled(home=str(_installed.home.path), requested=str(requested.path))
            return _installed
        audit = AuditLog.open(home, hosts=hosts, mode=mode)
        transports.instrument(audit, audit.hosts)
        _installed = audit
        return audit


def uninstall() -> None:
    """Stop recording: the libraries' own functions are put back, and the log is closed."""
    global _installed
    with _install_lock:
        audit, _installed = _installed, None
        if audit is not None:
            transports.uninstrument()
            audit.close()


def installed() -> AuditLog | None:
    """What `install` returned, where it is in force."""
    return _installed


def require_home(home: str | os.PathLike[str] | None) -> Home:
    """
    The home, which must exist: reading commands make none.

    Raises:
        HomeError: There is no log there.
    """
    located = Home.locate(home)
    if not located.exists:
        raise HomeError(
            f"there is no log in {located.path}; install() makes one, and so does init",
            home=str(located.path),
        )
    return located


def _after_fork_in_child() -> None:
    """Locks that another thread of the parent held would stay held for ever."""
    for audit in list(_OPEN):
        audit._workers_lock = threading.RLock()  # noqa: SLF001 - the module's own


os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _end_all() -> None:
    """A last drain, so that a short script's calls are in the journal. Calls made by later exit handlers still spool."""
    for audit in list(_OPEN):
        audit._end(2.0, closing=False)  # noqa: SLF001 - the module's own
    _end_by_interrupt()


def _end_by_interrupt() -> None:
    """
    Let a process that nobody kept from ending by Control-C still end by the signal, so that a shell leaves its loop.

    CPython remembers it in a flag that is cleared whenever text is executed, as `namedtuple` does when a module is imported,
    and our end imports modules. The flag is set again by the same thing happening again.
    """
    trace = getattr(sys, "last_traceback", None)
    unhandled = trace is not None and trace.tb_frame.f_back is None and not hasattr(sys, "ps1")
    if unhandled and isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt):
            exec("raise KeyboardInterrupt")  # noqa: S102 - a text of ours, and the only way to that flag
