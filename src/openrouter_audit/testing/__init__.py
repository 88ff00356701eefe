"""
What a test of an audited application needs, shipped for users as well.

`FakeOpenRouter` is an OpenRouter on loopback that keeps its own books, so that a test can lay them beside our log. It
comes with the extra `testing` and is loaded on first use: importing this package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openrouter_audit.testing.emulator import FakeOpenRouter, LatencyModel

__all__ = ["FakeOpenRouter", "LatencyModel"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from openrouter_audit.testing import emulator

        return getattr(emulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
