"""
The command line (C3): one file per command, data on stdout, everything else on stderr.

A command is imported when it is asked for, and nothing else is: `--help` is a page of text that needs no library. Exits:
0 fine, 64 usage, 65 bad data, 69 unavailable, 130 interrupted; 1, 2 and 3 belong to `verify` and `doctor`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

EXIT_USAGE = 64
EXIT_BAD_DATA = 65
EXIT_UNAVAILABLE = 69
EXIT_INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init:init", "Make a home; any recording program does so by itself."),
    "exec": ("exec_:exec_", "Run a command; Python processes under it are recorded, without a line of code."),
    "tail": ("tail:tail", "Show the newest calls, and go on showing them with --follow."),
    "show": ("show:show", "Show one call and its entries in the log."),
    "report": ("report:report", "Answer daily-cost, errors, top-spenders or summary."),
    "export": ("export:export", "Write all calls as JSON lines or CSV; that it was done is recorded."),
    "import": ("import_:import_", "Take in the calls of an older log, marked as unproven."),
    "settle": ("settle:settle", "Ask OpenRouter now what unsettled calls were billed."),
    "doctor": ("doctor:doctor", "Say what is watched, what is waiting, and what is wrong."),
    "verify": ("verify:verify", "Prove that nothing was changed, or name what was."),
    "publish": ("publish:publish", "Write the log as files that a stranger can check without this program."),
    "backup": ("backup:backup", "Copy the home while programs record, and prove the copy."),
    "recover": ("recover:recover", "Go on after a restore or the loss of a file, and record what is lost."),
    "redact": ("redact:redact", "Show what redaction leaves of a file, and what it found."),
    "emulator": ("emulator:emulator", "Serve an emulated OpenRouter on this machine, with books."),
}
"""By name: module and function, and what the list of commands says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    home, tokens = _leading_home(tokens)
    if not tokens:
        print(_help(), file=sys.stderr)
        return EXIT_USAGE
    if tokens[0] in {"--help", "-h"}:
        print(_help())
        return 0
    if tokens[0] in {"--version", "-V"}:
        from openrouter_audit._version import __version__

        print(__version__)
        return 0
    name, *rest = tokens
    if name not in COMMANDS:
        print(f"openrouter-audit: there is no command {name!r}; try openrouter-audit --help", file=sys.stderr)
        return EXIT_USAGE
    try:
        code = _run(name, rest, home)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. What is still buffered goes nowhere, without a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _leading_home(tokens: list[str]) -> tuple[str | None, list[str]]:
    """Take `--home DIR` or `--home=DIR` from in front of the command; behind it, the command reads it itself."""
    home = None
    while tokens:
        if tokens[0].startswith("--home="):
            home, tokens = tokens[0].removeprefix("--home="), tokens[1:]
        elif tokens[0] == "--home" and len(tokens) > 1:
            home, tokens = tokens[1], tokens[2:]
        else:
            break
    return home or None, tokens


def _help() -> str:
    lines = ["Usage: openrouter-audit [--home DIR] COMMAND ...", "", "The flight recorder of calls to OpenRouter.", ""]
    lines += [f"  {name:<9} {summary}" for name, (_, summary) in COMMANDS.items()]
    lines += [
        "",
        "  --home DIR  Where the log is; default $OPENROUTER_AUDIT_HOME, else openrouter-audit in the XDG data folder.",
        "  --version   Print the version.",
        "",
        "openrouter-audit COMMAND --help tells more about one.",
    ]
    return "\n".join(lines)


def _run(name: str, tokens: list[str], home: str | None) -> int:
    from importlib import import_module
    from inspect import signature

    from cyclopts import App, CycloptsError
    from rich.console import Console

    from openrouter_audit import errors

    module, function_name = COMMANDS[name][0].split(":")
    try:
        function = getattr(import_module(f"{__name__}.{module}"), function_name)
        if home is not None and "home" in signature(function).parameters:
            tokens = [f"--home={home}", *tokens]
        app = App(
            name=f"openrouter-audit {name}",
            version_flags=(),
            help_format="plaintext",
            result_action="return_value",
            exit_on_error=False,
            error_console=Console(stderr=True),
        )
        app.default(function)
        code = app(tokens)
        return code if isinstance(code, int) else 0
    except CycloptsError:
        return EXIT_USAGE  # cyclopts has said on stderr what it did not understand
    except errors.ConfigError as error:
        return _fail(error, EXIT_USAGE)
    except (errors.VerificationError, errors.CanonicalError) as error:
        return _fail(error, EXIT_BAD_DATA)
    except errors.OpenRouterAuditError as error:
        return _fail(error, EXIT_UNAVAILABLE)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or type(error).__name__}", EXIT_UNAVAILABLE)
    except ImportError as error:
        return _fail(error, EXIT_UNAVAILABLE)  # an extra is not installed; the message says which


def _fail(message: object, code: int) -> int:
    print(f"openrouter-audit: {message}", file=sys.stderr)
    return code
