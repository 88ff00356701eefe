"""
Applications as servers run them: pools, masters that fork, workers that are replaced, killed, frozen, and put into containers.

The emulator's books are laid beside the log: every call it answered is one call of the log, whichever process made it and
however that ended. `lifecycle_application` holds the applications.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.campaign.lifecycle_tools import ROOT, assert_whole, drained, emulator, output_of, prove, until
from tests.campaign.results import Result, recorded
from tests.journal.homes import of_kind, statuses

from openrouter_audit.journal.home import Home
from openrouter_audit.journal.vault import Vault


@pytest.fixture(scope="module")
def openrouter(tmp_path_factory):
    with emulator(tmp_path_factory.mktemp("emulator")) as server:
        yield server


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def start(play: str, home: Home, openrouter, *arguments: object, prefix: tuple[str, ...] = (), enrich: str = "off"):
    """An application on this home, in a process of its own."""
    return subprocess.Popen(
        [
            *prefix, sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning",
            "-m", "tests.campaign.lifecycle_application", play, home.path, openrouter.url, *map(str, arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENROUTER_AUDIT_ENRICH_SCOPE": enrich},
        start_new_session=True,
    )  # fmt: skip


def told(home: Home) -> set[str]:
    """Generation ids of the answers that the application had in its hands."""
    return {line for line in Path(f"{home.path}.told").read_text().split() if line != "ready"}


def first_line(process, expected: str) -> None:
    line = process.stdout.readline().strip()
    if line != expected:
        process.kill()
        raise AssertionError((line, *process.communicate()))


@contextmanager
def campaign(name: str, what: str):
    """Counts what a test found; `check` compares the log with the books."""
    result = Result(
        campaign=f"5-life-{name}", what=what, unit="processes", broken={"calls missing": 1},
        again=f"python3 dev.py test tests/campaign -k {name.replace('-', '_')}",
    )  # fmt: skip
    with recorded(result):
        yield result


def check(result: Result, home: Home, openrouter, *, calls: int | None = None) -> dict[str, str]:
    """Every answered call of this application is in the log, once, and has an end; the statuses by call."""
    proof = prove(home)
    outcomes = of_kind(proof.entries, "call.outcome")
    generations = [entry["generation_id"] for entry in outcomes if "generation_id" in entry]
    missing = told(home) - set(generations)
    result.broken = {**proof.broken, "calls missing": len(missing), "twice": len(generations) - len(set(generations))}
    result.figures = {"calls": str(len(outcomes))}
    result.points = len({entry["process"] for entry in of_kind(proof.entries, "log.opened")})
    assert_whole(proof)
    assert set() == missing
    assert len(generations) == len(set(generations))
    assert set(generations) <= set(openrouter.booked()), "a call that the server knows nothing of"
    begun = [entry["id"] for entry in of_kind(proof.entries, "call.intent")]
    assert set(begun) == set(statuses(proof.entries)), "a call without an end"
    if calls is not None:
        assert calls == len(begun) == len(told(home))
        assert {"success"} == set(statuses(proof.entries).values())
    return statuses(proof.entries)


# Servers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_that_replace_their_workers_record_every_call(home, openrouter, method):
    with campaign(f"pools-{method}", f"multiprocessing pool ({method}) with recycled workers") as result:
        output_of(start("pool", home, openrouter, method), timeout=300)
        check(result, home, openrouter, calls=1 + 6 * 2 + 1)


def test_a_preloaded_application_records_in_master_and_workers(home, openrouter):
    """
    gunicorn --preload: install() in the master, whose threads run; workers forked, one killed and replaced; SIGTERM.
    """
    with campaign("preloaded", "gunicorn --preload: forked workers, one killed and replaced, SIGTERM") as result:
        master = start("preload", home, openrouter, enrich="all")
        first_line(master, "serving")
        master.send_signal(signal.SIGTERM)
        output_of(master, timeout=300)
        check(result, home, openrouter, calls=1 + 4 * 3 + 3 + 1)


def test_workers_that_end_without_a_word_and_are_replaced_record_every_call(home, openrouter):
    """
    celery's prefork pool with `worker_max_tasks_per_child`: children end by os._exit, and others come.
    """
    with campaign("replaced", "celery prefork: workers recycled by os._exit") as result:
        output_of(start("prefork", home, openrouter), timeout=300)
        check(result, home, openrouter, calls=3 * 2 * 3)


def test_records_of_processes_without_threads_wait_for_whoever_sequences(home, openrouter):
    """
    uWSGI without threads: nobody drains there, every call works, and another process finds all of them later.
    """
    with campaign("without-threads", "uWSGI without threads: drained later by another process") as result:
        assert "waiting" == output_of(start("threadless", home, openrouter), timeout=300).strip()
        assert 0 == home.read_head()[1]
        check(result, home, openrouter, calls=1 + 3 * 3)


def test_a_child_that_python_knows_nothing_of_is_a_process_of_its_own(home, openrouter):
    """
    Forked in C, without Python's handlers: the pid, compared at each write, is all there is to tell.
    """
    with campaign("python-knows-nothing", "fork in C without handlers") as result:
        output_of(start("without_handlers", home, openrouter), timeout=300)
        check(result, home, openrouter, calls=1 + 1 + 3 + 1)


def test_a_child_forked_without_handlers_sequences_with_connections_of_its_own(home, openrouter):
    with campaign("connections-of-its-own", "fork in C: the child sequences after its parent") as result:
        output_of(start("flushing_child", home, openrouter), timeout=300)
        check(result, home, openrouter, calls=3)


# Forks beside calls -------------------------------------------------------------------------------------------------


def test_forks_while_other_threads_are_in_calls_lose_and_double_nothing(home, openrouter):
    with campaign("other-threads", "fork while threads are in calls and a stream is half read") as result:
        output_of(start("fork_beside_calls", home, openrouter), timeout=300)
        check(result, home, openrouter, calls=1 + 3 * 2 + 6)


def test_a_fork_in_a_task_loses_and_doubles_nothing(home, openrouter):
    with campaign("fork-in-a-task", "fork in an asyncio task with others in flight") as result:
        output_of(start("fork_in_a_task", home, openrouter), timeout=300)
        check(result, home, openrouter, calls=4 + 1 + 2 * 2)


# Ends ---------------------------------------------------------------------------------------------------------------


def test_an_end_without_a_word_leaves_an_intent_that_is_closed_as_unknown(home, openrouter):
    with campaign("end-without-a-word", "os._exit inside a stream") as result:
        output_of(start("end_at_once", home, openrouter), expected=7)
        assert ["success", "success", "unknown"] == sorted(check(result, home, openrouter).values())


@pytest.mark.parametrize(
    ("handler", "code", "end"), [("default", -signal.SIGTERM, "unknown"), ("python", 5, "cancelled")]
)
def test_sigterm_in_the_middle_of_calls_loses_nothing(home, openrouter, handler, code, end):
    """
    The default handler ends the process where it stands. One that raises SystemExit cancels the call it interrupts.
    """
    with campaign(f"sigterm-{handler}", f"SIGTERM ({handler} handler) with calls under way") as result:
        process = start("wait_for_signal", home, openrouter, handler)
        first_line(process, "streaming")
        until(lambda: Path(f"{home.path}.told").exists(), "a call of the other threads")
        process.send_signal(signal.SIGTERM)
        output_of(process, expected=code)
        found = list(check(result, home, openrouter).values())
        assert end in found
        assert set(found) <= {"success", "unknown", end}


def test_an_interpreter_that_ends_with_threads_in_calls_loses_nothing(home, openrouter):
    """
    Daemon threads are inside calls, some of which end after the recorder said its last word; streams are half read.
    """
    with campaign("threads-in-calls", "interpreter end with daemon threads in calls") as result:
        process = start("end_with_threads_in_calls", home, openrouter)
        _, errors = process.communicate(timeout=300)
        assert "Traceback" not in errors
        assert 0 == process.returncode, errors
        found = list(check(result, home, openrouter).values())
        assert set(found) <= {"success", "unknown", "abandoned"}


# Places -------------------------------------------------------------------------------------------------------------


def test_two_containers_with_equal_pids_on_one_home_are_not_confused(home, openrouter):
    """
    Both processes have pid 1 of a namespace. One dies with a call open: that call is given up, and not that of the other.
    """
    prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("NOT TESTED: pid namespaces need root and unshare(1)")
    with campaign("two-containers", "two pid namespaces on one home, one killed") as result:
        home.ensure()
        dying = start("contained", home, openrouter, "die", prefix=prefix)
        living = start("contained", home, openrouter, "live", prefix=prefix)
        pids = [process.stdout.readline().strip() for process in (dying, living)]
        assert ["1", "1"] == pids, [each.communicate() for each in (dying, living)]
        output_of_killed(dying)
        found = statuses(drained(home))
        assert 1 == list(found.values()).count("unknown"), "the call of the other container was given up as well"
        living.stdin.write("\n")
        living.stdin.flush()
        output_of(living)
        found = list(check(result, home, openrouter).values())
        assert (6, 1) == (found.count("success"), found.count("unknown"))
        with Vault.open(home.vault_path, read_only=True) as vault:
            opened = [entry["id"] for entry in of_kind(drained(home), "log.opened")]
            assert {"1"} == {vault.notes(name)["pid"] for name in opened}


def output_of_killed(process) -> None:
    process.stdin.write("\n")
    process.stdin.flush()
    output_of(process, expected=None)
    assert 0 != process.returncode


def test_a_frozen_process_is_not_given_up(home, openrouter):
    """
    SIGSTOP: its locks hold, its calls stay open however often somebody sequences, and after SIGCONT they end.
    """
    with campaign("frozen", "SIGSTOP of a recording process, sequenced meanwhile, SIGCONT") as result:
        process = start("frozen", home, openrouter)
        first_line(process, "recording")
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            for _ in range(3):
                entries = drained(home)
                assert "unknown" not in statuses(entries).values()
            process.send_signal(signal.SIGCONT)
            size = len(entries)
            until(lambda size=size: len(drained(home)) > size, "a record of the process that goes on")
        process.stdin.write("\n")
        process.stdin.flush()
        output_of(process)
        assert {"success"} == set(check(result, home, openrouter).values())
