"""
`openrouter-audit exec`: programs that know nothing of a recorder are recorded, and are the programs they were.

Everything here is a process: the command takes the place of ours, and what it starts is found by Python's own means. The
emulator's books say what must be in the log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from tests.cli.programs import APP, CALL, a_desk
from tests.clients.recorded import calls_of, compare
from tests.journal.homes import check_log, drain

from openrouter_audit.cli.exec_ import AUTOSTART, deaf


@pytest.fixture
def desk(tmp_path):
    with a_desk(tmp_path) as desk:
        yield desk


# Ways to start a program ----------------------------------------------------------------------------------------------


def test_a_script_is_recorded_and_has_its_arguments(desk):
    """
    Also those that look like ours.
    """
    desk.write("app.py", APP)

    assert "answered --home=x --help -v\n" == desk.run(sys.executable, "app.py", "--home=x", "--help", "-v")
    desk.check(1)


def test_a_module_is_recorded(desk):
    desk.write("pkg/__init__.py", "")
    desk.write("pkg/__main__.py", APP)

    assert "answered x\n" == desk.run(sys.executable, "-m", "pkg", "x")
    desk.check(1)


@pytest.mark.parametrize(
    "options", [("-c", APP), ("-", "x"), ("-P", "app.py"), ("-i", "app.py"), ("-W", "error", "app.py")]
)
def test_a_program_is_recorded_wherever_it_comes_from(desk, options):
    desk.write("app.py", APP)
    process = desk.start(sys.executable, *options)
    out, err = process.communicate(APP if options[0] == "-" else "", timeout=120)

    assert (0, ["answered"]) == (process.returncode, out.split()[:1]), err
    desk.check(1)


def test_an_interactive_console_is_recorded(desk):
    """
    As a notebook's kernel does, it reads cells and executes each when it is whole.
    """
    cells = CALL + "\n\n" + "call()\n" * 2 + "print('all', 'answered')\n"
    process = desk.start(sys.executable, "-c", "import code; code.interact(banner='', exitmsg='')")
    out, _ = process.communicate(cells, timeout=120)

    assert "all answered" in out
    desk.check(2)


def test_an_sdk_is_recorded_and_so_is_what_it_streams(desk):
    desk.run(
        sys.executable,
        "-c",
        "import openai\nwith openai.OpenAI() as client:\n"
        "  list(client.chat.completions.create(model='openai/gpt-4.1-mini', stream=True,"
        " messages=[{'role': 'user', 'content': 'Hello'}]))\n",
    )
    desk.check(1)


@pytest.mark.parametrize("library", ["aiohttp", "httpx", "httpx2", "requests"])
def test_recording_begins_with_the_import_of_any_client(desk, library):
    """
    And not before: a program that uses none of them loads nothing of ours.
    """
    program = (
        "import sys; early = [name for name in sys.modules if name.startswith(('openrouter_audit', 'wrapt', 'httpx'))]\n"
        f"import {library}\n"
        "from openrouter_audit.audit_log import installed\n"
        f"print(early, installed() is not None, {library}.__name__, {library}.__spec__.name)"
    )
    assert f"[] True {library} {library}\n" == desk.run(sys.executable, "-c", program)


def test_a_library_that_is_half_loaded_when_recording_begins_is_watched(desk):
    """
    One thread has loaded the first library and installs the recorder, while another thread is in the middle of a second one.
    """
    desk.write("moments.py", "import threading\nhalfway, installed = threading.Event(), threading.Event()\n")
    desk.write(
        "httpx.py",
        "import moments\nclass AsyncClient:\n  async def send(self): pass\n"
        "moments.halfway.set(); moments.installed.wait(2)\nclass Client:\n  def send(self): pass\n",
    )
    program = """
import moments, threading
def beside():
    moments.halfway.wait(60)
    import httpx2
    moments.installed.set()
thread = threading.Thread(target=beside)
thread.start()
import httpx
thread.join()
import httpx2
print(*(type(module.Client.__dict__["send"]).__name__ for module in (httpx, httpx2)), type(httpx.__loader__).__name__)
"""
    out, err = desk.start(sys.executable, "-c", program).communicate(timeout=120)
    assert "FunctionWrapper FunctionWrapper SourceFileLoader\n" == out, err


def test_threads_that_import_what_the_recorder_needs_do_not_wait_for_each_other(desk):
    """
    One thread is inside a module that the recorder imports, and needs another module, while a client is loaded beside it.
    """
    desk.write("app/moments.py", "import threading\nhalfway = threading.Event()\n")
    desk.write("app/needed.py", "")
    desk.write("app/wrapt.py", "import moments, time\nmoments.halfway.set(); time.sleep(2)\nimport needed\n")
    program = """
import moments, threading
def beside():
    moments.halfway.wait(60)
    import httpx2
    print("loaded")
thread = threading.Thread(target=beside)
thread.start()
import wrapt
thread.join()
"""
    process = desk.start(sys.executable, desk.write("app/main.py", program))
    out, _ = process.communicate(timeout=120)
    assert (0, "loaded\n") == (process.returncode, out)


def test_every_library_that_install_watches_is_waited_for(desk):
    """
    The list is written twice, for at the start of a process nothing of ours may be loaded to look it up.
    """
    program = (
        "import openrouter_audit, wrapt.importer, sitecustomize\n"
        "openrouter_audit.install()\n"
        "print(sorted(set(wrapt.importer._post_import_hooks) - set(sitecustomize.LIBRARIES)))"
    )
    assert "[]\n" == desk.run(sys.executable, "-c", program)


def test_a_library_that_is_there_before_us_is_watched_all_the_same(desk):
    """
    A `.pth` file of some package may import one before any `sitecustomize` runs.
    """
    early = f"import sys; sys.path += {sys.path!r}; import httpx2, site; site.main()"
    desk.run(sys.executable, "-S", "-c", f"{early}\n{CALL}\ncall()", said=warned("-S"))
    desk.check(1)


def warned(option: str) -> str:
    return (
        f"openrouter-audit: {sys.executable} {option} looks for no sitecustomize: this process will not be recorded\n"
    )


# A sitecustomize of their own -----------------------------------------------------------------------------------------


def test_a_sitecustomize_of_the_applications_own_runs_as_ever(desk):
    own = desk.write("own/sitecustomize.py", "import sys\nsys.own = 'ran'\n")
    program = f"{APP}\nimport sitecustomize\nprint(sys.own, sitecustomize.__file__)"

    assert f"answered\nran {own}\n" == desk.run(sys.executable, "-c", program, PYTHONPATH=path_with(own.parent))
    desk.check(1)


def test_one_that_fails_is_told_by_python_as_ever_and_the_program_is_recorded(desk):
    own = desk.write("own/sitecustomize.py", "raise RuntimeError('theirs')\n")
    process = desk.start(sys.executable, "-c", APP, PYTHONPATH=path_with(own.parent))
    out, err = process.communicate(timeout=120)

    alone = subprocess.run(
        [sys.executable, "-c", "pass"],
        env={**desk.environment, "PYTHONPATH": path_with(own.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RuntimeError: theirs" in alone.stderr
    assert (0, "answered\n") == (process.returncode, out)
    # Twice, for the process of `exec` itself finds it as well.
    assert alone.stderr * 2 == err
    desk.check(1)


def path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_one_inside_another_records_once(desk):
    desk.write("app.py", APP)
    again = (sys.executable, "-m", "openrouter_audit", "exec", "--")

    assert "answered\n" == desk.run(*again, sys.executable, "app.py")
    desk.check(1)


# What is not recorded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [("-I", "app.py"), ("-E", "app.py"), ("-S", "app.py"), ("-BIc", "import app; app.call()")]
)
def test_a_python_that_looks_for_no_sitecustomize_is_warned_of(desk, options):
    """
    The program runs, and its calls are in nobody's log.
    """
    desk.write("app.py", APP)
    option = next(f"-{letter}" for letter in options[0] if letter in "IES")
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    desk.write("app.py", path + APP)
    command = ("-BIc", path + CALL + "call()") if options[0] == "-BIc" else options
    desk.run(sys.executable, *command, said=warned(option))

    assert 1 == len(desk.fake.calls())
    assert [] == calls_of(drain(desk.home))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("python -I x", "-I"), ("/usr/bin/python3.11 -bE -m x", "-E"), ("python3 -X dev -S x", "-S"), ("python -Xdev -I", "-I"),
        ("python x -I", None), ("python -c x -I", None), ("python -m x -S", None), ("python -W ignore x -E", None),
        ("python - -I", None), ("python --version -x -I", "-I"), ("sh -I x", None), ("pythonic/sh -E", None), ("python", None),
    ],
)  # fmt: skip
def test_which_option_makes_a_python_deaf(command, option):
    assert option == deaf(tuple(command.split()))


def test_a_process_that_is_told_so_is_not_recorded(desk):
    desk.run("env", "OPENROUTER_AUDIT_AUTO=0", sys.executable, "-c", APP)

    assert 1 == len(desk.fake.calls())
    assert [] == calls_of(drain(desk.home))


# Processes that start others ------------------------------------------------------------------------------------------


def test_a_shell_script_that_starts_programs_is_recorded(desk):
    desk.write("app.py", APP)
    script = desk.write("run", f'#!/bin/sh\nfor name in one two; do "{sys.executable}" app.py $name; done\n')
    script.chmod(0o755)

    assert "answered one\nanswered two\n" == desk.run("./run")
    desk.check(2)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_is_recorded(desk, method):
    pool = f"multiprocessing.get_context({method!r}).Pool(2)"
    desk.write(
        "app.py",
        f"{CALL}\nimport multiprocessing\n\ndef work(number):\n    call()\n    return number\n\n"
        f"if __name__ == '__main__':\n    call()\n    with {pool} as workers:\n        print(workers.map(work, range(3)))\n"
        "        workers.close()\n        workers.join()\n",
    )
    process = desk.start(sys.executable, "-W", "ignore::DeprecationWarning", "app.py")
    out, err = process.communicate(timeout=120)

    assert (0, "[0, 1, 2]\n") == (process.returncode, out), err
    desk.check(4)


def test_subprocesses_are_recorded(desk):
    desk.write("app.py", APP)
    program = "import subprocess, sys\nfor n in '12': subprocess.run([sys.executable, 'app.py', n], check=True)"

    assert "answered 1\nanswered 2\n" == desk.run(sys.executable, "-c", program)
    desk.check(2)


def test_workers_that_a_server_forks_are_recorded(desk):
    """
    Loaded before the fork, killed and replaced; SIGTERM ends a worker's request and then the worker.
    """
    program = f"""{CALL}
import signal, sys
call()
def worker():
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        call()
        os.write(1, b"ready\\n")
        while True:
            signal.pause()
    return pid
first, second = worker(), worker()
sys.stdin.readline()
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
third = worker()
sys.stdin.readline()
for pid in (second, third):
    os.kill(pid, signal.SIGTERM)
    assert 0 == os.waitpid(pid, 0)[1]
call()
"""
    process = desk.start(sys.executable, "-W", "ignore::DeprecationWarning", "-c", program)
    assert ["ready\n"] * 2 == [process.stdout.readline() for _ in range(2)]
    process.stdin.write("\n")
    process.stdin.flush()
    assert "ready\n" == process.stdout.readline()
    assert ("", "") == process.communicate("\n", timeout=120)
    assert 0 == process.returncode
    desk.check(1 + 3 + 1)


def test_a_process_that_is_frozen_after_a_flush_has_nothing_waiting(desk):
    """
    As functions in the cloud are: stopped when the answer is out, and gone on with at the next request, or never.
    """
    program = f"""{CALL}
import sys, openrouter_audit
audit = openrouter_audit.install()
for _ in sys.stdin:
    call()
    audit.flush(60)
    print("frozen", flush=True)
"""
    process = desk.start(sys.executable, "-c", program)
    for count in (1, 2, 3):
        process.stdin.write("request\n")
        process.stdin.flush()
        assert "frozen\n" == process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        compare(calls_of(check_log(desk.home)), desk.fake.calls())
        assert count == len(desk.fake.calls())
        if count < 3:
            process.send_signal(signal.SIGCONT)
    process.kill()  # thawed no more
    process.communicate(timeout=60)
    desk.check(3)


# The command is what it was -------------------------------------------------------------------------------------------


def test_the_command_takes_our_place(desk):
    """
    One process: whoever waits for it, signals it or feeds it has to do with the command alone.
    """
    process = desk.start(sys.executable, "-c", "import os, sys; print(os.getpid()); sys.exit(7)")
    out, err = process.communicate(timeout=120)

    assert (7, f"{process.pid}\n", "") == (process.returncode, out, err)


def test_bytes_go_through_a_command_that_is_no_python(desk):
    assert "täglich\n" == desk.run("cat", told="täglich\n")
    desk.check(0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"])
def test_a_signal_ends_the_command_as_it_would_without_us(desk, name):
    """
    SIGPIPE too, which the Python of `exec` itself ignores.
    """
    number = getattr(signal, name)
    command = ("sh", "-c", f"kill -{number.value} $$; echo alive")
    without = subprocess.run(command, capture_output=True, text=True, timeout=120)
    process = desk.start(*command)
    out, _ = process.communicate(timeout=120)

    assert (without.returncode, without.stdout) == (process.returncode, out)
    assert -number == process.returncode or number != signal.SIGTERM  # others may be ignored in what runs the tests


def test_a_signal_reaches_the_handler_of_the_program(desk):
    """
    In the middle of its work; the call before it is in the log.
    """
    program = f"{CALL}\nimport signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\ncall()\n"
    process = desk.start(sys.executable, "-c", program + "print('waiting', flush=True)\nwhile True: signal.pause()")
    assert "waiting\n" == process.stdout.readline()
    process.terminate()
    process.communicate(timeout=120)

    assert 5 == process.returncode
    desk.check(1)


# What can go wrong ----------------------------------------------------------------------------------------------------


def test_a_command_that_is_not_there_or_no_program_exits_as_shells_have_it(desk):
    assert "" == desk.run("no-such-program", code=127, said="openrouter-audit: no-such-program: not found\n")
    desk.write("plain.txt", "")
    assert "" == desk.run("./plain.txt", code=126, said="openrouter-audit: ./plain.txt: Permission denied\n")
    desk.run(code=64, said="openrouter-audit: exec needs a command: openrouter-audit exec -- python app.py\n")


def test_settings_and_homes_that_cannot_be_meant_are_said_before_anything_starts(desk):
    process = desk.start("echo", "started", OPENROUTER_AUDIT_CAPTURE_MODE="loud")
    assert ("", 64) == (process.communicate(timeout=120)[0], process.returncode)
    desk.home.path.write_text("a file")
    process = desk.start("echo", "started")
    assert ("", 69) == (process.communicate(timeout=120)[0], process.returncode)


def test_a_fault_of_ours_is_a_line_and_the_program_goes_on(desk):
    """
    The home is gone when the program starts.
    """
    home = desk.write("home", "a file")
    desk.write("app.py", APP)
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=desk.folder,
        env={**desk.environment, "OPENROUTER_AUDIT_AUTO": "1", "OPENROUTER_AUDIT_HOME": str(home), "PYTHONPATH": path_with(AUTOSTART)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert (0, "answered\n") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith("openrouter-audit: process ")
    assert "is not recorded" in line
    assert 1 == len(desk.fake.calls())


def test_a_python_that_has_no_recorder_says_so_and_goes_on(desk):
    """
    A script may start one of another environment: it would be recorded by nobody, and somebody should know.
    """
    venv.create(desk.folder / "other")
    desk.write("httpx.py", "print('loaded')")
    done = subprocess.run(
        [desk.folder / "other" / "bin" / "python", "-c", "import httpx"],
        cwd=desk.folder,
        env={**desk.environment, "OPENROUTER_AUDIT_AUTO": "1", "PYTHONPATH": str(AUTOSTART)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "loaded\n") == (done.returncode, done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.endswith("is not recorded: No module named 'openrouter_audit'")


def test_the_folder_on_the_path_holds_one_name(desk):
    """
    Anything else in it would stand before a module of the application's.
    """
    assert ["sitecustomize.py"] == [path.name for path in AUTOSTART.iterdir() if path.name != "__pycache__"]
    found = desk.run(sys.executable, "-c", "import sys; print(sys.path)")
    assert str(AUTOSTART) not in found
