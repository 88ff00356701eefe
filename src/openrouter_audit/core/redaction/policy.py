"""
What is looked for, and what a finding says.

A finding never holds what was found: it names the class and the place in the input, so that counts and places can be kept
and shown where the text may not be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from openrouter_audit.errors import ConfigError, PatternError

KINDS: Final = {
    "EMAIL": "e-mail address, also with letters outside ASCII, also with %40",
    "PHONE": "telephone number that exists by its country's plan",
    "SSN": "US social security number in a range that is given out",
    "CARD": "payment card, 13 to 19 digits whose check digit is right",
    "IBAN": "bank account with right check digits and the length of its country",
    "IP": "IPv4 or IPv6 address",
    "API_KEY": "key of OpenRouter, OpenAI, Anthropic, AWS, Google Cloud, Azure, GitHub, GitLab, Slack, Stripe and others",
    "JWT": "JSON web token",
    "PRIVATE_KEY": "PEM block of a private key",
    "PEM": "any other PEM block",
    "CREDENTIAL": "value of an Authorization or key header, user and password in a URL, token in a query",
    "NATIONAL_ID": "national id whose check digits are right, of the countries that are switched on",
    "MEDIA": "base64 of an image, a sound, a file",
    "ENCODED": "base64 or hex whose text holds any of the above",
    "USER_ID": "account or end-user id in a field that names one",
    "WITHHELD": "text that could not be looked through",
}
"""Every class, by its tag."""

MAX_NAME: Final = 32
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*\Z")
DEFAULT_REGIONS: Final = ("US", "GB", "DE", "FR", "JP", "IT", "ES", "NL", "AT", "CH", "AU", "IN", "BR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place that was replaced. It never holds what stood there."""

    kind: str
    """A key of `KINDS`, or the name of an own pattern."""
    start: int
    """First character (byte, where bytes were given) in the input."""
    end: int
    """Behind the last one."""
    path: str = ""
    """Of the value in a JSON body, for example `messages[0].content`; offsets then count inside this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPattern:
    """A pattern of the user's own, in RE2's syntax: whatever it is, it takes linear time."""

    name: str
    """Becomes the tag: capitals, digits, underscores."""
    pattern: str
    """Matched within a line."""

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME or not _NAME.match(self.name):
            reason = f"its name must be of capitals, digits and underscores, at most {MAX_NAME} of them"
            raise PatternError(name=self.name, reason=reason)
        if self.name in KINDS:
            raise PatternError(name=self.name, reason="a class of that name is built in")


class Detector(Protocol):
    """
    A finder of what patterns cannot find, names and addresses above all; its model is the user's to supply.

    It is asked once for each text, in the thread that redacts. Where it raises, the text is withheld.
    """

    def find(self, text: str) -> Iterable[tuple[str, int, int]]:
        """Name, first character and behind the last one, of each finding; names as in `OwnPattern`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    What is looked for.

    Raises:
        ConfigError: A class or country is unknown.
        PatternError: Two own patterns have one name.
    """

    off: frozenset[str] = frozenset()
    """Classes that are left as they are."""
    national_ids: tuple[str, ...] = ()
    """Countries whose ids are looked for, as two letters."""
    patterns: tuple[OwnPattern, ...] = ()
    numbered: bool = False
    """Whether equal values of a call get equal numbers: `[EMAIL_1]`."""
    any_phone: bool = False
    """Whether ten digits without a word such as `phone` in front are taken for a number too; finds order numbers."""
    phone_regions: tuple[str, ...] = DEFAULT_REGIONS
    """Countries whose numbers are known without their country code, where a word such as `phone` stands in front."""
    detectors: tuple[Detector, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(self.off - KINDS.keys()):
            raise ConfigError(f"there is no class {unknown[0]}; there are {', '.join(KINDS)}", setting="redact.off")
        names = [own.name for own in self.patterns]
        for name in names:
            if names.count(name) > 1:
                raise PatternError(name=name, reason="another pattern has that name")


DEFAULT: Final = Policy()
