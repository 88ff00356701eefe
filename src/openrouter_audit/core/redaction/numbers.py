"""
What a run of digits is: an address, a card, a social security number, a telephone number, or none of them.

Shapes are bounded and tried from left to right; then the number itself has to be right. Digits that are joined to more
digits, letters, or by a dash or dot to another number are part of something longer: a timestamp, a UUID, a decimal, an
order number. Ten digits in a row, or with dots, are a telephone number only behind a word that says so, since every third
order number would be one as well.

Telephone numbers are judged by the patterns of the library's own metadata, compiled once for each country. The library's
parser answers the same and takes fifty times as long, which a text full of almost-numbers could turn against us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from openrouter_audit.core.redaction.policy import Policy
from openrouter_audit.core.redaction.view import Span, View
from openrouter_audit.errors import ExtraMissing

_SEP: Final = rb"(?:[ .\-]|\xc2\xa0|\xe2\x80[\x90-\x95\xaf]|\xe2\x88\x92)"
"""Space, dot, hyphen, and what typography puts in their places."""
RUN: Final = rb"[0-9+(](?:[0-9 .()/+\-]|\xc2\xa0|\xe2\x80[\x90-\x95\xaf]|\xe2\x88\x92){5,}[0-9]"
"""Whatever can hold any of these; the prefilter looks for it."""
_ALONE: Final = rb"(?<![0-9A-Za-z_])(?<![0-9][.\-/])"
_ENDS: Final = rb"(?![0-9A-Za-z_@]|[.\-][0-9])"
_SHAPES: Final = re.compile(
    rb"(?P<world>(?<![0-9A-Za-z])\+[1-9](?:(?:" + _SEP + rb"|[()/]){0,3}[0-9]){6,18})"
    rb"|(?P<ip>(?<![0-9A-Za-z_.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_]|\.[0-9]))"
    rb"|(?P<card>" + _ALONE + rb"(?:[0-9]{13,19}"
    rb"|[0-9]{4}(?P<c4>" + _SEP + rb")[0-9]{4}(?P=c4)[0-9]{4}(?P=c4)[0-9]{1,4}(?:(?P=c4)[0-9]{3})?"
    rb"|3[0-9]{3}(?P<c6>" + _SEP + rb")[0-9]{6}(?P=c6)[0-9]{4,5})" + _ENDS + rb")"
    rb"|(?P<ssn>" + _ALONE + rb"[0-9]{3}(?P<s>" + _SEP + rb"?)[0-9]{2}(?P=s)[0-9]{4}" + _ENDS + rb")"
    rb"|(?P<nanp>" + _ALONE + rb"(?:1" + _SEP + rb"?)?(?:\([0-9]{3}\)" + _SEP + rb"?|[0-9]{3}" + _SEP + rb"?)[0-9]{3}"
    + _SEP + rb"?[0-9]{4}(?![0-9A-WYZa-wyz_@]|[.\-][0-9]))"
    rb"|(?P<home>" + _ALONE + rb"(?:\(0[0-9]{1,5}\)|0[0-9])(?:(?:" + _SEP + rb"|[()/]){0,3}[0-9]){6,13}(?![0-9A-Za-z_@]))"
)  # fmt: skip
_STRONG_NANP: Final = re.compile(
    rb"(?:1[ \-.])?(?:\([0-9]{3}\) ?[0-9]{3}[\-. ][0-9]{4}|[0-9]{3}-[0-9]{3}-[0-9]{4}|[0-9]{3} [0-9]{3}[ \-][0-9]{4})"
    rb"|1[ \-.][0-9]{3}[ \-.][0-9]{3}[ \-.][0-9]{4}"
)
"""Shapes that a telephone number has and hardly anything else."""
_PHONE_WORD: Final = re.compile(
    r"(?:\b(?:(?:tele|cell|smart)?phones?|tel(?:efon|\u00e9phone|\u00e9fono|efono|efone|ephone)?|mobil(?:e|e?funk|nummer)?|cell(?:ular)?|handy(?:nummer)?"
    r"|fon|fax|whatsapp|signal|sms|hotline|rufnummer|r\u00fcckruf|portable|m\u00f3vil|ph|contact number|call ?back|msisdn)\b"
    r"|\u96fb\u8a71|\u643a\u5e2f|\u7535\u8bdd|\u624b\u673a|\uc804\ud654|\u0442\u0435\u043b\u0435\u0444\u043e\u043d)[^0-9\n]{0,24}$"
    r"|\b(?:call|dial|ring|text|reach|phone|anrufen|erreichbar|appeler)(?: (?:me|us|him|her|them|back))?(?: (?:at|on|under|unter|au))?[:,]? $",
    re.IGNORECASE,
)
_SSN_WORD: Final = re.compile(r"\b(?:ssns?|social(?: security)?(?: (?:number|no\.?))?)\b[^0-9\n]{0,16}$", re.IGNORECASE)
_VERSION_WORD: Final = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|rev|revision|section|chapter|\u00a7)\.?[ :=]{0,2})$", re.IGNORECASE
)
_ACCOUNT_IN_FRONT: Final = re.compile(
    r"\b(?:A[DELOTZ]|B[AEGHIRY]|C[HRYZ]|D[EKO]|E[EGS]|F[IKOR]|G[BEILRT]|H[RU]|I[ELQST]|JO|K[WZ]|L[BCITUVY]|M[CDEKNRTU]|N[ILO]|OM|P[KLST]|QA"
    r"|R[OSU]|S[ACDEIKMOTV]|T[LNR]|UA|V[AG]|XK|YE)[0-9]{2}[ -](?:[A-Z0-9]{4}[ -])*$"
)
"""The groups of an account whose check digits are wrong: every tenth would be a card."""
_TYPOGRAPHY: Final = re.compile(rb"\xe2(?:\x80[\x90-\x95]|\x88\x92)")
_NOT_DIGITS: Final = re.compile(rb"[^0-9]+")
_GROUP_END: Final = re.compile(rb"[0-9](?=[^0-9]|$)")
_LUHN_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
_LUHN_PLAIN: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
_CARD_PREFIX: Final = re.compile(
    rb"(?:4|5[0-8]|6|22(?:0[0-4]|2[1-9]|[3-9])|2[3-6]|27[01]|2720)[0-9]*|3[47][0-9]{13}|3(?:0|6|8|9)[0-9]{12,17}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
)
"""Who gives out cards. Timestamps in milliseconds and finer begin with 1, book numbers with 9, and neither is here."""


def find(view: View, start: int, end: int, policy: Policy) -> Iterator[Span]:
    """Spans in the run of digits `[start, end)`, in order."""
    floor = max(view.floor, start - 3)
    window = view.text[floor : min(view.end, end + 3)]
    at = start - floor
    while (found := _SHAPES.search(window, at)) is not None:
        shape = found.lastgroup if found.lastgroup not in {"c4", "c6", "s"} else None
        shape = shape or next(name for name in ("card", "ssn") if found[name] is not None)
        span = _judge(view, shape, found.group(), floor + found.start(), policy)
        if span is None:
            at = found.start() + 1
        else:
            yield span
            at = span.end - floor


def _judge(view: View, shape: str, matched: bytes, start: int, policy: Policy) -> Span | None:
    if shape == "ip":
        if all(int(part) <= 255 for part in matched.split(b".")) and not _VERSION_WORD.search(view.before(start)):
            return Span(start, start + len(matched), "IP")
    elif shape == "card":
        length = _card(matched)
        if length and not _ACCOUNT_IN_FRONT.search(view.before(start)):
            return Span(start, start + length, "CARD")
    elif shape == "ssn":
        if _is_ssn(matched) and (matched.count(b"-") == 2 or _SSN_WORD.search(view.before(start))):
            return Span(start, start + len(matched), "SSN")
    else:
        length = _phone(view, shape, matched, start, policy)
        if length:
            return Span(start, start + length, "PHONE")
    return None


def is_luhn(digits: bytes) -> bool:
    """Whether the last of these digits is their check digit."""
    backwards = digits[::-1]
    return (sum(backwards[::2].translate(_LUHN_PLAIN)) + sum(backwards[1::2].translate(_LUHN_DOUBLED))) % 10 == 0


def _card(matched: bytes) -> int:
    """How much of it is a card; a group of three behind the last may be the number on its back."""
    for end in [len(matched), *[each.end() for each in _GROUP_END.finditer(matched)][-2:-1]]:
        digits = _NOT_DIGITS.sub(b"", matched[:end])
        if 13 <= len(digits) <= 19 and _CARD_PREFIX.fullmatch(digits) and is_luhn(digits):
            return end
    return 0


def _is_ssn(matched: bytes) -> bool:
    """Areas 000, 666 and 900 up, group 00 and serial 0000 were never given out."""
    digits = _NOT_DIGITS.sub(b"", matched)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in {b"000", b"666"} and area < b"900" and group != b"00" and serial != b"0000"


def _phone(view: View, shape: str, matched: bytes, start: int, policy: Policy) -> int:
    """How much of it is a telephone number."""
    digits = _NOT_DIGITS.sub(b"", matched).decode()
    if shape == "world":
        return next((end for end, part in _groups(matched) if is_world_number(part)), 0)
    matched_plainly = _TYPOGRAPHY.sub(b"-", matched.replace(b"\xc2\xa0", b" "))
    said = policy.any_phone or _PHONE_WORD.search(view.before(start)) is not None
    if shape == "nanp":
        national = digits[-10:]
        if said and len(digits) >= 10 and _STRONG_NANP.fullmatch(matched_plainly):
            return len(matched)  # somebody says it is one, and it looks like one: made up or not, out it goes
        if said or _STRONG_NANP.fullmatch(matched_plainly):
            known = national.startswith("555") or is_number_of(1, national)
            known = known or (said and digits.startswith("0") and _is_home_number(digits, policy))
            return len(matched) if known else 0
        return 0
    if digits.startswith("00"):
        spaced = len(digits) < len(matched)
        return next((end for end, part in _groups(matched) if (said or spaced) and is_world_number(part[2:])), 0)
    return next((end for end, part in _groups(matched) if _is_home_number(part, policy)), 0) if said else 0


def _groups(matched: bytes) -> Iterator[tuple[int, str]]:
    """The number, and then with fewer groups at its end: another number may follow it."""
    ends = [each.end() for each in _GROUP_END.finditer(matched)]
    for end in reversed(ends[-5:]):
        yield end, _NOT_DIGITS.sub(b"", matched[:end].replace(b"(0)", b"")).decode()


def is_world_number(digits: str) -> bool:
    """Whether a number with its country code, without plus, exists by that country's plan."""
    return any(is_number_of(int(digits[:length]), digits[length:]) for length in (1, 2, 3) if digits[:length].isdigit())


def _is_home_number(digits: str, policy: Policy) -> bool:
    for region in policy.phone_regions:
        prefix, plan = _plan_of(region)
        national = digits.removeprefix(prefix) if prefix else digits
        if plan is not None and plan.fullmatch(national):
            return True
    return False


def is_number_of(country_code: int, national: str) -> bool:
    """Whether these digits are a number of one of the countries with this code."""
    if not 4 <= len(national) <= 15:
        return False
    for region in _regions_of(country_code):
        plan = _plan_of(region)[1]
        if plan is not None and plan.fullmatch(national):
            return True
    return False


@lru_cache(maxsize=1024)
def _regions_of(country_code: int) -> tuple[str, ...]:
    regions: tuple[str, ...] = _library().COUNTRY_CODE_TO_REGION_CODE.get(country_code, ())
    return tuple(region for region in regions if region != "001")


@lru_cache(maxsize=512)
def _plan_of(region: str) -> tuple[str, re.Pattern[str] | None]:
    """What is dialled in front inside the country, and a pattern of all its numbers."""
    plan = _library().PhoneMetadata.metadata_for_region(region, None)
    if plan is None:
        return "", None
    kinds = (
        "fixed_line",
        "mobile",
        "toll_free",
        "premium_rate",
        "shared_cost",
        "personal_number",
        "voip",
        "pager",
        "uan",
    )
    patterns = [getattr(plan, kind) for kind in kinds]
    texts = [each.national_number_pattern for each in patterns if each is not None and each.national_number_pattern]
    general = plan.general_desc.national_number_pattern
    return plan.national_prefix or "", re.compile(f"(?=(?:{general})\\Z)(?:{'|'.join(texts)})")


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import phonenumbers
    except ImportError as error:
        raise ExtraMissing(extra="redaction", library="phonenumbers") from error
    return phonenumbers
