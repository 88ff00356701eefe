"""
Coverage-guided fuzzing of notes, checkpoints, proofs and policies, by atheris, which is no dependency of the project.

    python -m tests.campaign.fuzz_note -max_total_time=60

The first byte of an input chooses the parser. `one_input` is also run by `test_hostile.py`, without atheris.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaign.hostile_parsers import PARSERS

_TARGETS = [
    parser
    for name in ("note", "checkpoint", "proof file", "policy", "key text", "tile path", "bundle")
    for parser in PARSERS
    if parser.name == name
]


def one_input(data: bytes) -> None:
    """One text for one parser: a declared error, or what was parsed can be written again."""
    if not data:
        return
    parser = _TARGETS[data[0] % len(_TARGETS)]
    try:
        parser.parse(data[1:], random.Random(len(data)))
    except parser.declared:
        pass


@cache
def corpus() -> Sequence[bytes]:
    return [bytes([number]) + example for number, parser in enumerate(_TARGETS) for example in parser.examples()]


def run(target: Callable[[bytes], None], examples: Sequence[bytes]) -> None:
    """Hand a target to atheris, with the corpus as files of a folder of its own; options are libFuzzer's."""
    import atheris

    # All was loaded before the driver was, so each function is instrumented by itself.
    for name, module in list(sys.modules.items()):
        if name.startswith(("openrouter_audit.core", "openrouter_audit.capture")):
            _instrument(atheris, module)
    with TemporaryDirectory() as folder:
        for number, data in enumerate(examples):
            (Path(folder) / f"{number:03}").write_bytes(data)
        atheris.Setup([sys.argv[0], folder, "-max_len=16384", *sys.argv[1:]], target)
        atheris.Fuzz()


def _instrument(atheris: object, module: object) -> None:
    for owner in [module, *(one for one in vars(module).values() if isinstance(one, type))]:
        for value in list(vars(owner).values()):
            function = getattr(value, "__func__", value)
            if getattr(function, "__code__", None) is None or getattr(function, "__module__", "") == "":
                continue
            if str(function.__module__).startswith("openrouter_audit"):
                function.__code__ = atheris.instrument_func(function).__code__


if __name__ == "__main__":
    run(one_input, corpus())
