"""
How each class is told from its look-alikes.

A rule has a head, a short pattern of bounded length that one search over the text looks for together with all other heads,
and a judgement of what stands around a head. Heads are short so that looking again behind one that was refused costs little:
no text makes the search quadratic. What may be long, a key above all, is swallowed behind the head by its `tail`.

Everything here works on bytes, where whatever is not ASCII counts as a letter.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from openrouter_audit.core.redaction.view import Span, View

ALNUM: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_WORD: Final = ALNUM | frozenset(b"_-")
_HIGH: Final = frozenset(range(0x80, 0x100))
_ANY_ALNUM: Final = ALNUM | _HIGH
_DIGIT_BYTES: Final = b"0123456789"
_JUDGED: Final = 400
"""Bytes of a long value that decide whether it is one; the rest is swallowed only where it is."""


TAILS: Final = (
    re.compile(rb""),
    re.compile(rb"[A-Za-z0-9_\-]*"),
    re.compile(rb"[A-Za-z0-9_.=\-]*"),
    re.compile(rb"[A-Za-z0-9+/=_\-%]*"),
    re.compile(rb"[^\s\"'\\,;<>\[\]{}()]*"),
    re.compile(rb"[^\r\n]*"),
    re.compile(rb"[^\r\n\"]*"),
    re.compile(rb"[^\r\n']*"),
    re.compile(rb"[^&\s\"'<>#\[\]\\]*"),
)
"""By number, since a finding names its own. The block of a PEM is told by `pem_end`."""
WORD_TAIL, TOKEN_TAIL, BASE64_TAIL, VALUE_TAIL, LINE_TAIL, QUOTED_TAIL, APOSTROPHE_TAIL, QUERY_TAIL = range(1, 9)
PEM_TAIL: Final = 9

Judge = Callable[[View, int], Span | None]


class Rule(NamedTuple):
    head: bytes
    """RE2, bounded, without groups."""
    judge: Judge
    """Given the place where a head begins."""


def tail_end(view: View, at: int, tail: int) -> int:
    found = TAILS[tail].match(view.text, at, view.end)
    return at if found is None else found.end()


# E-mail -----------------------------------------------------------------------------------------------------------

_LOCAL: Final = bytes([*sorted(ALNUM), *b"._%+-'", *range(0x80, 0x100)])
_DOMAIN: Final = re.compile(rb"[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9.\-\x80-\xff]{0,255})")
_LAST_LABEL: Final = re.compile(r"(?:xn--[A-Za-z0-9-]{2,}|[^\W\d_]{2,24})\Z")
_NO_LETTER: Final = re.compile("[\ud800-\udfff]")
"""What bytes that are no UTF-8 become."""
_CJK_FROM: Final = 0x2E80


def _email(view: View, start: int) -> Span | None:
    behind = start + (2 if view.text[start + 1 : start + 2] == b"@" else 4)  # or %40
    window = view.text[max(view.floor, start - 255) : start + 1]
    local = _NO_LETTER.split(window[len(window.rstrip(_LOCAL)) :].decode("utf-8", "surrogateescape"))[-1]
    for place in range(len(local) - 1, -1, -1):
        if ord(local[place]) >= _CJK_FROM and local[-1].isascii():
            local = local[place + 1 :]  # in a script without spaces, a word in front of the address
            break
    local = local.lstrip(".'-%")
    found = _DOMAIN.match(view.text, behind, view.end)
    if found is None or not local:
        return None
    domain = _domain(_NO_LETTER.split(found.group().decode("utf-8", "surrogateescape"))[0])
    if not domain:
        return None
    begin, end = start + 1 - len(local.encode()), behind + len(domain.encode())
    if local == "git" and view.text[end : end + 1] == b":":
        return None  # a place of code, not a person
    return Span(begin, end, "EMAIL")


def _domain(text: str) -> str:
    """The longest beginning that is a domain name; empty where there is none."""
    labels = text.split(".")
    for count in range(len(labels), 1, -1):
        last = labels[count - 1]
        if last[:1].isascii():
            cut = next((place for place, letter in enumerate(last) if ord(letter) >= _CJK_FROM), len(last))
            last = last[:cut]
        last = last.rstrip("-")
        if _LAST_LABEL.match(last) and all(labels[: count - 1]):
            return ".".join([*labels[: count - 1], last])
    return ""


# Addresses of machines --------------------------------------------------------------------------------------------

_HEX_COLON: Final = b"0123456789abcdefABCDEF:."


def _ipv6(view: View, start: int) -> Span | None:
    left = view.text[max(view.floor, start - 40) : start]
    begin = start - (len(left) - len(left.rstrip(b"0123456789abcdefABCDEF:")))
    right = view.text[start : min(view.end, start + 48)]
    end = start + len(right) - len(right.lstrip(_HEX_COLON))
    while end > start and view.text[end - 1] in b".:" and view.text[end - 2 : end] != b"::":
        end -= 1
    shown = view.text[begin:end]
    if not view.is_free(begin, _ANY_ALNUM) or (end < view.end and view.text[end] in _ANY_ALNUM):
        return None
    if len(shown) < 4 or not _has_digit(shown) or shown.count(b"::") > 1:  # `a::b` is code
        return None
    import ipaddress

    try:
        ipaddress.IPv6Address(shown.decode())
    except ValueError:
        return None
    return Span(begin, end, "IP")


def _credentials(view: View, start: int) -> Span | None:
    """Behind `://`: user and password, or a token, up to the last @ of the authority."""
    found = _USERINFO.match(view.text, start + 3, view.end)
    assert found is not None  # noqa: S101 - for mypy; the head has it
    return Span(start + 3, found.end() - 1, "CREDENTIAL")


_USERINFO: Final = re.compile(rb"[^\s/?#\"'<>\[\]\\]+@")
_QUERY_NAME: Final = (
    rb"[?&](?i:access_token|id_token|refresh_token|auth_token|token|api_?-?key|key|sig|signature|x-amz-signature"
    rb"|x-amz-security-token|x-amz-credential|x-goog-signature|password|passwd|pwd|secret|client_secret|sas|auth)="
)
_QUERY: Final = re.compile(_QUERY_NAME)


def _query(view: View, start: int) -> Span | None:
    found = _QUERY.match(view.text, start, view.end)
    assert found is not None  # noqa: S101 - for mypy; it is the head
    end = tail_end(view, found.end(), QUERY_TAIL)
    if end - found.end() < 6:
        return None
    return _named_secret(view, found.end(), end, QUERY_TAIL)


# Accounts ---------------------------------------------------------------------------------------------------------

_IBAN: Final = re.compile(rb"[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]){11,30}")


def _iban(view: View, start: int) -> Span | None:
    found = _IBAN.match(view.text, start, view.end)
    if found is None or not view.is_free(start, _ANY_ALNUM):
        return None
    from stdnum import iban

    shown = found.group()
    ends = [place for place in range(15, len(shown) + 1) if place == len(shown) or shown[place] in b" -"]
    for end in reversed(ends):
        follows = view.text[start + end : start + end + 1]
        if follows and follows[0] in _ANY_ALNUM:
            continue
        if _is_mod_97(shown[:end]) and iban.is_valid(shown[:end].decode(), check_country=False):
            return Span(start, start + end, "IBAN")
    return None


def _is_mod_97(shown: bytes) -> bool:
    """Whether ISO 7064's check digits are right; the library, which knows the lengths of countries, takes much longer."""
    account = shown.replace(b" ", b"").replace(b"-", b"").decode()
    return int("".join(str(int(letter, 36)) for letter in account[4:] + account[:4])) % 97 == 1


# Keys -------------------------------------------------------------------------------------------------------------


def _digits_in(found: re.Match[bytes] | None) -> int:
    shown = b"" if found is None else found.group()
    return len(shown) - len(shown.translate(None, _DIGIT_BYTES))


def _key(kind: str = "API_KEY", tail: int = WORD_TAIL, *, joined: frozenset[int] = ALNUM, digits: int = 0) -> Judge:
    """A key by its beginning; `digits` is how many it must hold where its beginning may begin a word too."""

    def judge(view: View, start: int) -> Span | None:
        if not view.is_free(start, joined):
            return None
        if digits and _digits_in(TAILS[tail].match(view.text, start, min(view.end, start + _JUDGED))) < digits:
            return None
        return Span(start, tail_end(view, start, tail), kind, tail)

    return judge


def _fixed(length: int) -> Judge:
    """A key of exactly this length."""

    def judge(view: View, start: int) -> Span | None:
        end = start + length
        if not view.is_free(start, ALNUM) or (end < view.end and view.text[end] in ALNUM):
            return None
        return Span(start, end, "API_KEY")

    return judge


def _jwt(view: View, start: int) -> Span | None:
    """Three parts or five, the first of which is JSON."""
    if start < view.token_end or not view.is_free(start, _WORD):
        return None
    end = tail_end(view, start, TOKEN_TAIL)
    head = view.text[start : start + 20].partition(b".")[0]
    if 3 <= view.text.count(b".", start, end) + 1 <= 6:
        try:
            base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4))  # what begins with eyJ begins an object
            return Span(start, end, "JWT", TOKEN_TAIL)
        except binascii.Error:
            pass
    view.token_end = end
    return None


_AZURE_LEFT: Final = bytes([*sorted(ALNUM), *b"_~.-"])


def _azure_client_secret(view: View, start: int) -> Span | None:
    """Three characters, `8Q~`, and 31 to 34 more; the head begins at the 8."""
    left, right = view.text[max(view.floor, start - 3) : start], view.text[start + 3 : min(view.end, start + 40)]
    if len(left) == 3 and not left.strip(_AZURE_LEFT) and view.is_free(start - 3, ALNUM):
        return Span(start - 3, start + 3 + len(right) - len(right.lstrip(_AZURE_LEFT)), "API_KEY")
    return None


def _media(view: View, start: int) -> Span | None:
    if not view.is_free(start, ALNUM):
        return None
    comma = view.text.index(b",", start)
    return Span(start, tail_end(view, comma + 1, BASE64_TAIL), "MEDIA", BASE64_TAIL)


# Headers and settings ---------------------------------------------------------------------------------------------

_ASSIGNED: Final = rb"[\"'\\]{0,3}[ \t]{0,3}(?::|=>|=)[ \t]{0,3}[\"'\\]{0,3}"
_AUTHORIZATION: Final = rb"(?i:authorization)" + _ASSIGNED
_NAMED: Final = (
    rb"(?i:api[_\-]?key|goog-api-key|auth[_\-]?token|access[_\-]?token|private[_\-]?token|security[_\-]?token|refresh[_\-]?token"
    rb"|subscription[_\-]key|client[_\-]?secret|secret[_\-]?(?:access[_\-]?)?key|secret access key|account[_\-]?key|sharedaccesskey)"
) + _ASSIGNED
_COOKIE: Final = rb"(?i:cookie)[\"']?[ \t]{0,2}:[ \t]{0,2}[\"']?[A-Za-z0-9_.\-]{1,64}="
_AUTHORIZATION_HEAD, _NAMED_HEAD, _COOKIE_HEAD = (re.compile(each) for each in (_AUTHORIZATION, _NAMED, _COOKIE))
_SCHEME: Final = re.compile(
    rb"(?i:(?P<line>digest|aws4-hmac-sha256|oauth|hawk|signature|mac)|bearer|basic|token|api-?key|negotiate|ntlm|dpop|key)[ \t]{1,4}"
)
_BEARER: Final = re.compile(rb"(?i:bearer)[ \t]{1,4}(?P<token>[A-Za-z0-9_\-.~+/=]{12,})")
_BASIC: Final = re.compile(rb"(?i:basic)[ \t]{1,4}(?P<token>[A-Za-z0-9+/_\-]{6,}={0,2})")
_SECRET: Final = re.compile(rb"[A-Za-z0-9+/=_\-.~%]{8,400}")


def _has_digit(text: bytes) -> bool:
    return len(text.translate(None, _DIGIT_BYTES)) < len(text)


def _authorization(view: View, start: int) -> Span | None:
    head = _AUTHORIZATION_HEAD.match(view.text, start, view.end)
    assert head is not None  # noqa: S101 - for mypy
    at, scheme = head.end(), _SCHEME.match(view.text, head.end(), view.end)
    if scheme is not None:
        at = scheme.end()
        if scheme["line"] is not None:
            return _rest_of_line(view, at, quote=view.text[head.end() - 1])
    end = tail_end(view, at, VALUE_TAIL)
    value = view.text[at:end]
    if len(value) < 3 or (not _has_digit(value) and len(value) < (8 if scheme else 20)):
        return None
    return _named_secret(view, at, end, VALUE_TAIL)


def _rest_of_line(view: View, at: int, *, quote: int) -> Span | None:
    """A value of several parts, up to the quote it began with or the end of the line."""
    tail = {ord('"'): QUOTED_TAIL, ord("'"): APOSTROPHE_TAIL}.get(quote, LINE_TAIL)
    end = tail_end(view, at, tail)
    if end - at < 3 or view.text[at] in b"[":
        return None
    return Span(at, end, "CREDENTIAL", tail, unique=True)


def _cookie(view: View, start: int) -> Span | None:
    head = _COOKIE_HEAD.match(view.text, start, view.end)
    assert head is not None  # noqa: S101 - for mypy
    name = len(head.group().rpartition(b":")[2].lstrip(b" \t\"'"))
    return _rest_of_line(view, head.end() - name, quote=view.text[head.end() - name - 1])


def _named(view: View, start: int) -> Span | None:
    head = _NAMED_HEAD.match(view.text, start, view.end)
    assert head is not None  # noqa: S101 - for mypy
    found = _SECRET.match(view.text, head.end(), view.end)
    if found is None:
        return None
    value = found.group()
    if not _has_digit(value) or (len(value) < 16 and value.isdigit()):
        return None
    return _named_secret(view, found.start(), tail_end(view, found.end(), BASE64_TAIL), BASE64_TAIL)


def _bearer(view: View, start: int) -> Span | None:
    found = _BEARER.match(view.text, start, view.end)
    if found is None or not _has_digit(found["token"]) or not view.is_free(start, _ANY_ALNUM):
        return None
    return _named_secret(view, found.start("token"), found.end(), TOKEN_TAIL)


def _basic(view: View, start: int) -> Span | None:
    found = _BASIC.match(view.text, start, view.end)
    if found is None or not view.is_free(start, _ANY_ALNUM):
        return None
    token = found["token"].rstrip(b"=")
    try:
        shown = base64.b64decode(
            token + b"=" * (-len(token) % 4), altchars=b"-_" if b"-" in token or b"_" in token else None
        )
    except binascii.Error:
        return None
    if b":" not in shown or not shown.isascii():
        return None
    return Span(found.start("token"), found.end(), "CREDENTIAL")


def _named_secret(view: View, start: int, end: int, tail: int) -> Span:
    """What a name announced: with the tag of its own kind where it has one."""
    own = specific(view, start)
    kind = "CREDENTIAL" if own is None or own.start != start else own.kind
    if own is not None and own.start == start and own.end > end:
        return own
    return Span(start, end, kind, tail)


def specific(view: View, at: int) -> Span | None:
    """A key, token or block whose beginning tells what it is."""
    for head, judge in _SPECIFIC:
        if head.match(view.text, at, view.end) and (span := judge(view, at)) is not None:
            return span
    return None


# PEM --------------------------------------------------------------------------------------------------------------

_PEM_TOKEN: Final = re.compile(
    rb"(?P<space>[ \t\r\n]+|\\[nrt])|(?P<end>-----END [A-Z0-9 ]{0,60}-----)|(?P<word>[A-Za-z0-9+/=]+)|(?P<strange>[^\s\\]+|.)",
    re.DOTALL,
)
_LONG_WORD: Final = 20
_MAX_STRANGE: Final = 16
"""Words of a block that are not of base64, before it is taken to be cut short: some blocks have a comment in front."""
PEM: Final = rb"-----BEGIN [A-Z0-9 ]{1,60}-----"
_PEM_HEAD: Final = re.compile(PEM)


def _pem(view: View, start: int) -> Span | None:
    head = _PEM_HEAD.match(view.text, start, view.end)
    assert head is not None  # noqa: S101 - for mypy
    kind = "PRIVATE_KEY" if b"PRIVATE" in head.group() else "PEM"
    end, tail = pem_end(view, head.end(), PEM_TAIL)
    return Span(start, end, kind, tail, unique=True)


def pem_end(view: View, at: int, tail: int) -> tuple[int, int]:
    """
    Where a block ends that goes on at `at`, and its tail where more of it may come.

    It ends with its END line or, where that was cut off, behind some words that are not of base64. How many there were
    since the last long one is counted in the tail, above `PEM_TAIL`.
    """
    strange = tail - PEM_TAIL
    while at < view.end:
        found = _PEM_TOKEN.match(view.text, at, view.end)
        assert found is not None  # noqa: S101 - for mypy; anything is some token
        if found.lastgroup == "end":
            return found.end(), 0
        if found.lastgroup == "word" and len(found.group()) >= _LONG_WORD:
            strange = 0
        elif found.lastgroup != "space":
            strange += 1
            if strange > _MAX_STRANGE:
                return at, 0
        at = found.end()
    return at, PEM_TAIL + strange


# All of them ------------------------------------------------------------------------------------------------------

_API_KEYS: Final = (
    Rule(rb"sk-or-(?:v[0-9]{1,2}-)?[A-Za-z0-9]", _key(joined=_WORD, digits=1)),
    Rule(rb"sk-ant-[A-Za-z0-9_\-]{8}", _key()),
    Rule(rb"sk-(?:proj|svcacct|admin|None|live|test|lf)-[A-Za-z0-9_\-]{12}", _key()),
    Rule(rb"sk-[A-Za-z0-9]{20}", _key(digits=1)),
    Rule(rb"sk-[A-Za-z0-9_\-]{20}", _key(joined=_WORD, digits=3)),
    Rule(rb"(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}", _fixed(20)),
    Rule(rb"AIza[A-Za-z0-9_\-]{35}", _key()),
    Rule(rb"ya29\.[A-Za-z0-9_\-]{10}", _key(tail=TOKEN_TAIL)),
    Rule(rb"GOCSPX-[A-Za-z0-9_\-]{16}", _key()),
    Rule(rb"[78]Q~[A-Za-z0-9_~.\-]{31}", _azure_client_secret),
    Rule(rb"gh[pousr]_[A-Za-z0-9]{16}", _key()),
    Rule(rb"github_pat_[A-Za-z0-9_]{16}", _key()),
    Rule(rb"gl(?:pat|ptt|dt|rt|cbt|ft|soat|imt|agent|oas|ffct)-[A-Za-z0-9_\-]{16}", _key(tail=TOKEN_TAIL)),
    Rule(rb"xox[abeoprs]-[A-Za-z0-9\-]{10}", _key()),
    Rule(rb"xox[e]\.xox[a-z]-[A-Za-z0-9\-]{10}", _key(tail=TOKEN_TAIL)),
    Rule(rb"xapp-[0-9]-[A-Za-z0-9\-]{10}", _key()),
    Rule(rb"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9]", _key(tail=VALUE_TAIL)),
    Rule(rb"[spr]k_(?:live|test)_[A-Za-z0-9]{10}", _key()),
    Rule(rb"whsec_[A-Za-z0-9+/=]{16}", _key(tail=BASE64_TAIL)),
    Rule(rb"hf_[A-Za-z0-9]{24}", _key()),
    Rule(rb"gsk_[A-Za-z0-9]{24}", _key()),
    Rule(rb"xai-[A-Za-z0-9]{24}", _key(digits=2)),
    Rule(rb"npm_[A-Za-z0-9]{36}", _key()),
    Rule(rb"pypi-[A-Za-z0-9_\-]{40}", _key(digits=1)),
    Rule(rb"SG\.[A-Za-z0-9_\-]{16,32}\.", _key(tail=TOKEN_TAIL)),
    Rule(rb"eyJ[A-Za-z0-9_\-]{6}", _jwt),
)
RULES: Final = (
    *_API_KEYS,
    Rule(PEM, _pem),
    Rule(rb"(?i:data):[A-Za-z]{1,20}/[A-Za-z0-9.+\-]{1,80}(?:;[A-Za-z0-9=\-]{1,40}){0,3};base64,", _media),
    Rule(_AUTHORIZATION, _authorization),
    Rule(_NAMED, _named),
    Rule(_COOKIE, _cookie),
    Rule(rb"(?i:bearer)[ \t]{1,4}[A-Za-z0-9_\-.~+/=]{12}", _bearer),
    Rule(rb"(?i:basic)[ \t]{1,4}[A-Za-z0-9+/_\-]{6}", _basic),
    Rule(rb"://[^\s/?#\"'<>\[\]\\]+@", _credentials),
    Rule(_QUERY_NAME, _query),
    Rule(rb"::", _ipv6),
    Rule(rb"(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]", _ipv6),
    Rule(rb"[A-Z]{2}[0-9]{2}[ \-]?[A-Z0-9]{4}[ \-]?[A-Z0-9]{3}", _iban),
    Rule(rb"[A-Za-z0-9._%+'\-\x80-\xff](?:@|%40)[A-Za-z0-9\x80-\xff]", _email),
)
_SPECIFIC: Final = tuple((re.compile(rule.head), rule.judge) for rule in (*_API_KEYS, Rule(PEM, _pem)))


_FIRST: Final = re.compile(rb"(?P<folded>\(\?i:)|\(\?:|(?P<set>\[(?:\\.|[^\]])+\])")


def first_bytes(head: bytes) -> frozenset[int]:
    """The bytes a head may begin with: those of a set, or of each word of a group."""
    found = _FIRST.match(head)
    if found is None:
        return frozenset(head[:1])
    if found["set"] is not None:
        members = re.compile(found["set"])
        return frozenset(byte for byte in range(256) if members.match(bytes([byte])))
    group = head[found.end() : head.index(b")", found.end())]
    if group.startswith(b"["):
        return first_bytes(group)
    letters = b"".join(word[:1] for word in group.split(b"|"))
    return frozenset(letters.lower() + letters.upper() if found["folded"] else letters)
