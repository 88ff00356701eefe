"""
What recording adds to the start of a process: CPU time and memory.

    python -m bench.startup [--rounds N] [--json]

Fresh interpreters take turns, round after round. Each imports the openai SDK and makes a client; some install the recorder
in between, and some make a first call, to a server on another core. A process says its own CPU (of all threads, since it began)
and resident memory where it has come so far, and what installing took by itself, which is the steadier figure; it then ends as
programs do, and CPU and wall time up to the end are its parent's to say. Installing is compared with the SDK alone, the first
recorded call with a first call of the bare client.

Modules are found compiled, the home is there, enrichment is off. A process that finds neither takes longer, once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from bench import stage
from bench.inproc import KEY, pin

BAR_MS: Final = 30.0
BAR_MIB: Final = 15.0
FIGURES: Final = {
    "cpu_ms": "CPU, ms",
    "rss_mib": "RSS, MiB",
    "installing_ms": "of it installing, CPU ms",
    "end_cpu_ms": "CPU to the end, ms",
    "end_wall_ms": "wall to the end, ms",
}

_SDK: Final = """
import os, time
import openai
installing = 0.0
"""
_INSTALL: Final = """
started = time.process_time()
import openrouter_audit
openrouter_audit.install(os.environ["BENCH_HOME"], hosts=[os.environ["BENCH_HOST"]])
installing = time.process_time() - started
"""
_CLIENT: Final = """
client = openai.OpenAI(base_url=f"http://{os.environ['BENCH_HOST']}/api/v1", api_key=os.environ["BENCH_KEY"])
"""
_CALL: Final = """
client.chat.completions.create(model="openai/gpt-4.1-mini", messages=[{"role": "user", "content": "x" * 500}])
"""
_SAY: Final = """
cpu = time.process_time()
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
print(cpu * 1e3, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, installing * 1e3, flush=True)
"""
PROGRAMS: Final = {
    "sdk": _SDK + _CLIENT + _SAY,
    "installed": _SDK + _INSTALL + _CLIENT + _SAY,
    "sdk, first call": _SDK + _CLIENT + _CALL + _SAY,
    "installed, first call": _SDK + _INSTALL + _CLIENT + _CALL + _SAY,
}
COMPARED: Final = {"installed": "sdk", "installed, first call": "sdk, first call"}


def run(program: str, environment: dict[str, str]) -> dict[str, float]:
    """One fresh process, from its start to its end."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    cpu_ms, rss_mib, installing_ms = map(float, process.stdout.read().split())
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    wall_ms = (time.perf_counter() - started) * 1e3
    return {
        "cpu_ms": cpu_ms,
        "rss_mib": rss_mib,
        "installing_ms": installing_ms,
        "end_cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3,
        "end_wall_ms": wall_ms,
    }


def measure(environment: dict[str, str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Each program once a round; the first round writes compiled modules and is left out."""
    said: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    names = list(PROGRAMS)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            said[name].append(run(PROGRAMS[name], environment))
    return {name: turns[1:] for name, turns in said.items()}


def quartiles(values: list[float]) -> list[float]:
    return [round(value, 1) for value in statistics.quantiles(values, n=4)]


def figures_of(said: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """What each program takes, and what recording adds to it within a round: quartiles."""
    figures: dict[str, dict[str, Any]] = {}
    for name, turns in said.items():
        figures[name] = {field: quartiles([turn[field] for turn in turns]) for field in FIGURES}
        if name in COMPARED:
            pairs = list(zip(turns, said[COMPARED[name]], strict=True))
            for field in FIGURES:
                figures[name][f"added_{field}"] = quartiles([turn[field] - bare[field] for turn, bare in pairs])
    return figures


def show(figures: dict[str, dict[str, Any]]) -> None:
    print(f"{'median (quartiles)':24}" + "".join(f"{title:>26}" for title in FIGURES.values()))
    for name, figure in figures.items():
        print(f"{name:24}" + "".join(_spread(figure[field]) for field in FIGURES))
        if name in COMPARED:
            print(f"{'  added':24}" + "".join(_spread(figure[f"added_{field}"]) for field in FIGURES))


def _spread(values: list[float]) -> str:
    low, middle, high = values
    return f"{f'{middle:.4g} ({low:.4g} .. {high:.4g})':>26}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder, stage.serving() as port:
        pin(0)
        environment = {
            **stage.compiled_into(Path(folder) / "compiled"),
            "BENCH_HOME": str(Path(folder) / "home"),
            "BENCH_HOST": f"127.0.0.1:{port}",
            "BENCH_KEY": KEY,
            "OPENROUTER_AUDIT_ENRICH_SCOPE": "off",
        }
        figures = figures_of(measure(environment, options.rounds))
    installed = figures["installed"]
    verdicts = {
        "installing_itself_ms": {"is": installed["installing_ms"][1], "bar": BAR_MS},
        "installing_cpu_ms": {"is": installed["added_cpu_ms"][1], "bar": BAR_MS},
        "installing_rss_mib": {"is": installed["added_rss_mib"][1], "bar": BAR_MIB},
    }
    for verdict in verdicts.values():
        verdict["held"] = verdict["is"] <= verdict["bar"]
    if not options.json:
        show(figures)
        for name, verdict in verdicts.items():
            print(f"{name}: {verdict['is']:.1f}, bar {verdict['bar']:g}, {'held' if verdict['held'] else 'MISSED'}")
    print(json.dumps({"rounds": options.rounds, "programs": figures, "verdicts": verdicts}))


if __name__ == "__main__":
    main()
