"""
What the engine promises of any text: twice is once, any chunking, no exception, no time that grows faster than the text.
"""

import random
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.redaction.pieces import ALL, GLUE, HEX, KEYS, made_up
from tests.core.redaction.test_classes import BEHIND_A_NAME

from openrouter_audit.core.redaction import OwnPattern, Policy, Redactor, redact
from openrouter_audit.core.redaction.engine import PIECE, Engine, _merge
from openrouter_audit.core.redaction.redactor import Redaction
from openrouter_audit.core.redaction.view import Span

NORMAL = Engine(Policy())
NARROW = Engine(Policy(), piece=40, ahead=200)
STRICT = Engine(
    Policy(
        numbered=True,
        any_phone=True,
        national_ids=("DE", "GB"),
        patterns=(OwnPattern(name="ORDER", pattern=r"order \d+|[A-Z]{3,}"),),
    )
)
TEXTS = st.lists(st.one_of(st.sampled_from([*ALL, *GLUE]), st.text(max_size=8)), max_size=10).map("".join)


def in_pieces(engine, text, cuts):
    redactor = Redactor(engine=engine)
    places = [0, *sorted(cuts), len(text)]
    shown = text[:0].join([redactor.feed(text[a:b]) for a, b in pairwise(places)])
    return shown + redactor.finish(), redactor.findings


def check(text, engine, cuts):
    """All that must be true of any text."""
    shown, findings = Redaction(engine).redact(text)

    # findings point at what was replaced, and nothing else was touched
    at, rest = 0, shown
    for each in findings:
        assert at <= each.start < each.end <= len(text)
        kept = text[at : each.start]
        assert rest.startswith(kept)
        tag, bracket, rest = rest[len(kept) :].partition("]" if isinstance(text, str) else b"]")
        assert (tag + bracket).startswith(f"[{each.kind}" if isinstance(text, str) else f"[{each.kind}".encode())
        at = each.end
    assert rest == text[at:]
    assert (shown, findings) == in_pieces(engine, text, cuts)
    if engine is not NARROW:  # a stretch that had to be cut is cut elsewhere in the shorter text
        assert (shown, []) == Redaction(engine).redact(shown)


@settings(deadline=None, max_examples=150)
@given(text=TEXTS, places=st.lists(st.integers(0, 10**6), max_size=6), engine=st.sampled_from([NORMAL, NARROW, STRICT]))
def test_any_text_in_any_pieces_gives_the_same_and_twice_is_once(text, places, engine):
    check(text, engine, [place % (len(text) + 1) for place in places])


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=300), text=TEXTS, engine=st.sampled_from([NORMAL, NARROW, STRICT]))
def test_any_bytes_pass(data, text, engine):
    mixed = data + text.encode("utf-8", "surrogatepass") + data

    check(mixed, engine, [len(data), len(data) + 1])


def fuzz(seed, count):
    rng = random.Random(seed)
    for number in range(count):
        text = made_up(rng)
        engine = (NORMAL, NARROW, STRICT)[number % 3 if number % 10 == 0 else 0]
        check(text, engine, [rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 5))])


@pytest.mark.parametrize("seed", range(4))
def test_twenty_thousand_texts(seed):
    fuzz(seed, 5_000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_million_texts(seed):
    fuzz(seed, 10_000)


def test_a_secret_cut_anywhere_is_found():
    for value in ALL:
        text = f"so {value} it is\n"
        for cut in range(len(text) + 1):
            assert redact(text) == in_pieces(NORMAL, text, [cut]), (value, cut)
        assert redact(text) == in_pieces(NORMAL, text, range(len(text)))


def test_a_secret_is_found_wherever_a_stretch_without_a_quiet_place_is_cut():
    """Also where the cut is between the name and what it announces, or in the middle of an address."""
    announced = [f"{name}{value}" for _, name, value in BEHIND_A_NAME if "Digest" not in name and "Cookie" not in name]
    for secret in [*ALL, "https://user:letmein@db.example/x", *announced]:
        if len(secret) > 190 or "\n" in secret:
            continue  # more than this engine has in sight
        for before in range(85):
            text = "(" * before + secret + "((" + secret + "(" * 300
            assert Redaction(NORMAL).redact(text) == Redaction(NARROW).redact(text), (secret, before)


def test_a_password_at_the_real_cut_is_found():
    for before in range(PIECE - 4, PIECE + 1):
        text = "_" * before + "://user:letmein@db.example/" + "_" * 500 + "://user:letmein@db.example/" + "_" * 20_000
        shown, findings = redact(text)
        assert "letmein" not in shown
        assert ["CREDENTIAL"] * 2 == [each.kind for each in findings]


def test_a_number_that_begins_behind_a_cut_in_a_run_of_digits_is_found_once():
    """The run is before the cut, the card in it is not; the next piece sees it, and nothing twice."""
    for before in range(25, 42):
        text = "(" * before + "1 22 333 4444 1 22 333 4444 1 4111 1111 1111 1111" + "(" * 300
        assert ["CARD"] == [each.kind for each in Redaction(NARROW).redact(text)[1]]


def test_a_cut_never_goes_through_a_letter():
    """Letters of two and four bytes at every place around the cut, and bytes that are none of UTF-8."""
    for letter in ("é", "𝄞"):
        for before in range(5):
            text = "(" * before + letter * 300
            assert (text, []) == Redaction(NARROW).redact(text)
    assert (b"\x80" * 300, []) == Redaction(NARROW).redact(b"\x80" * 300)


def test_a_pattern_that_finds_one_more_each_time_comes_to_an_end():
    """A word begins behind each new tag, so this one would never be done: nine times are enough for any other."""
    policy = Policy(patterns=(OwnPattern(name="ORDER", pattern=r"\ba"),))

    assert "[ORDER]" * 9 + "a" * 31 == redact("a" * 40, policy)[0]


def test_only_what_may_be_part_of_a_finding_is_held_back():
    redactor = Redactor()
    shown = redactor.feed("The answer is simple, and my mail is jane.doe@exam")

    assert "The answer is simple, and my mail is " == shown
    assert redactor.held_bytes == len("jane.doe@exam")
    assert "[EMAIL] " == redactor.feed("ple.com and ")[:8]


def test_what_is_held_back_has_a_bound():
    redactor, most = Redactor(), 0
    redactor.feed("sk-or-" + "v1-")
    for _ in range(300):
        redactor.feed("0123456789abcdef" * 1024)
        most = max(most, redactor.held_bytes)
    redactor.feed(" 1 2 3" * 200_000)
    assert most <= NORMAL.piece + NORMAL.ahead
    assert redactor.held_bytes <= NORMAL.piece + NORMAL.ahead
    redactor.finish()
    assert ["API_KEY"] == [each.kind for each in redactor.findings]


def test_a_secret_of_ten_megabytes_is_one_finding():
    text = "key: sk-or-" + "v1-" + "a1" * 5_000_000 + " done"
    shown, findings = redact(text)

    assert "key: [API_KEY] done" == shown
    assert [("API_KEY", 5, len(text) - 5)] == [(each.kind, each.start, each.end) for each in findings]
    assert (shown, findings) == in_pieces(NORMAL, text, range(0, len(text), 99_991))


HOSTILE = {
    "at signs": "@", "addresses that are none": "a@", "digits": "4", "single digits": "1 ", "groups of four": "1234 ", "dashes": "1-", "begin lines": "-----BEGIN " + "PRIVATE KEY-----",
    "begin lines, lines": "-----BEGIN " + "PRIVATE KEY-----\n", "token heads": "eyJ", "token parts": "eyJabcdef.", "slashes": "://a", "authorities": "://a@", "colons": "::",
    "hex groups": "1::", "accounts": "DE89 3704 0044 ", "announced numbers": "tel 211 555 1234 ", "pluses": "+1 2 ", "headers": "authorization: ", "bearers": "authorization: bearer ",
    "cookies": "cookie: a=", "media": "data:image/png;base64,", "base64": "QUJD", "lines": "\n", "spaces": " ", "brackets": "[", "letters": "é", "percent": "a%40b.c",
    "nothing": "\0", "half characters": "\ud800", "key heads": "sk-", "quads": "1.1.1.1.", "names": "api_key=", "queries": "?token=", "azure": "8Q~", "cjk": "電@電",
    "keys without digits": "sk-aaaaaaaaaaaaaaaaaaaaaaaa-", "headers in a row": "authorization:", "names in a row": "api_key=aaaaaaaaaaaaaaaaa",
}  # fmt: skip


class CountedHeads:
    """The search for heads, with the bytes it went over."""

    def __init__(self, heads):
        self.heads, self.scanned = heads, 0

    def search(self, text, at=0, end=None):
        found = self.heads.search(text, at, end)
        self.scanned += ((len(text) if end is None else end) if found is None else found.end()) - at
        return found


def work(unit, size):
    """Python calls made, and bytes searched, for a text of this size."""
    engine, calls = Engine(Policy()), 0
    engine._heads = counted = CountedHeads(engine._heads)

    def count(frame, event, argument):
        nonlocal calls
        calls += event in {"call", "c_call"}

    text = unit * (size // len(unit))
    sys.setprofile(count)
    try:
        Redaction(engine).redact(text)
    finally:
        sys.setprofile(None)
    return calls, counted.scanned


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_twice_the_text_is_twice_the_work(unit):
    Redaction(NORMAL).redact("212-555-0187 fe80::1 DE89 3704 0044 0532 0130 00")  # what is loaded on first use
    calls, scanned = work(unit, 8_000)
    more_calls, more_scanned = work(unit, 32_000)

    assert more_calls <= 4.5 * calls + 2_000
    assert more_scanned <= 4.5 * scanned + 40_000


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_no_text_of_a_megabyte_is_too_much(unit, monkeypatch):
    """What a judgement swallows is counted: no byte is swallowed again and again."""
    from openrouter_audit.core.redaction import rules

    swallowed, plain = 0, rules.tail_end

    def counted(view, at, tail):
        nonlocal swallowed
        end = plain(view, at, tail)
        swallowed += end - at
        return end

    monkeypatch.setattr(rules, "tail_end", counted)
    text = unit * (100_000 // len(unit))
    redact(text)

    assert swallowed <= 10 * len(text.encode("utf-8", "surrogatepass")) + 10_000


def test_findings_that_touch_are_one_and_those_within_another_are_none():
    """What a second look finds may begin in one finding and end behind it."""
    one, longer, inner, apart = Span(0, 5, "IP"), Span(3, 9, "EMAIL", 2), Span(1, 4, "SSN"), Span(9, 12, "CARD")

    assert [Span(0, 9, "IP", 2), apart] == _merge([apart, inner, longer, one])


def test_numbers_of_equal_values_are_equal_within_a_call():
    redaction = Redaction(Engine(Policy(numbered=True)))

    assert "[EMAIL_1] [EMAIL_2] [EMAIL_1]" == redaction.redact("a@x.example b@x.example a@x.example")[0]
    assert "[EMAIL_2] [IP_1]" == redaction.redact("b@x.example 10.0.0.1")[0]
    assert "[EMAIL_1]" == Redaction(redaction.engine).redact("b@x.example")[0]


def test_nothing_is_remembered_of_what_was_found():
    findings = redact(f"mail jane.doe@example.com, key {KEYS['openai']}")[1]

    assert "jane" not in repr(findings)
    assert HEX not in repr(findings)
