"""Pages of the documentation as tests read them: blocks of code, sections, links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def all_pages() -> list[Path]:
    """Every page that belongs to the project."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, text), those of some languages where any are named."""
    return [(language, body) for language, body in _FENCE.findall(text) if not languages or language in languages]


def prose(text: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", text)


def section(text: str, heading: str) -> str:
    """From a heading of the second or third level to the next of its level; empty where there is none."""
    found = re.search(rf"^(##+) `?{re.escape(heading)}`?\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found[2]


def links(text: str) -> list[str]:
    return _LINK.findall(prose(text))


def anchors(text: str) -> set[str]:
    """What `#...` may name, as code forges make them of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(prose(text))
    }
