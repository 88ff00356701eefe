"""
What is encoded in base64 or hex is found as if every word were decoded, though nearly none is.
"""

import base64
import binascii
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openrouter_audit.core.redaction import Policy, redact_json
from openrouter_audit.core.redaction.encoded import decode, word_at
from openrouter_audit.core.redaction.engine import engine_for

WORD = re.compile(r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z0-9+/_-]{12,}={0,2})(?![A-Za-z0-9+/_=-])")
TEXT = st.text(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E), st.characters(min_codepoint=0x20, max_codepoint=0x7E), st.characters()
    ),
    min_size=3,
    max_size=60,
)  # fmt: skip


def decoded_slowly(word):
    """By the letter of the rule: nine in ten printable ASCII, in UTF-8 or UTF-16, as hex or as base64."""
    tries = [bytes.fromhex(word)] if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", word) else []
    plain = word.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        tries.append(base64.b64decode(plain + "=" * (-len(plain) % 4)))
    except binascii.Error:
        pass
    for data in tries:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if sum(letter.isprintable() and letter.isascii() for letter in text) > 0.9 * len(text):
                return text
    return None


def words(text):
    """Words that encode text, and what they encode, by decoding each of them."""
    found = [(each.span(), decoded_slowly(each.group())) for each in WORD.finditer(text)]
    return [(start, end, inner) for (start, end), inner in found if inner is not None]


def words_found(text):
    return list(engine_for(Policy()).encoded_words(text.encode()))


def forms(text):
    data = [text.encode("utf-8", "replace"), *(text.encode(each, "replace") for each in ("utf-16-le", "utf-16-be"))]
    for each in data:
        yield base64.b64encode(each).decode()
        yield base64.urlsafe_b64encode(each).decode().rstrip("=")
        yield each.hex()
        yield each.hex().upper()


@settings(deadline=None, max_examples=400)
@given(
    text=TEXT,
    front=st.sampled_from(["", "see ", "\n", "é", "(", "x.", "a b c "]),
    behind=st.sampled_from(["", " ", ".", "\n", "é", ", and"]),
)
@example(text="abcdefghi", front="", behind="")
@example(text="\tabcdefgh\n", front="", behind="")
@example(text="abcdefghijé", front="", behind="")
@example(text="éabcdefghi1", front="", behind="")
def test_words_with_nine_ascii_characters_in_a_row_are_found_as_if_all_were_decoded(text, front, behind):
    """In any alphabet, at any place; what is found besides is right as well."""
    has_nine = re.search(r"[\x00-\x7f]{9}", text) is not None
    for form in forms(text):
        line = f"{front}{form}{behind}"
        slowly, found = (
            words(line),
            [(len(line.encode()[:a].decode()), len(line.encode()[:b].decode()), t) for a, b, t in words_found(line)],
        )
        assert not [each for each in found if each not in slowly]
        if has_nine:
            assert found == slowly


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(max_codepoint=0x7F), min_size=1, max_size=40))
def test_of_ascii_nothing_is_lost(text):
    for form in forms(text):
        assert words(form) == words_found(form)


@settings(deadline=None, max_examples=300)
@given(text=st.text("AfgzZ09+/_-= .,\né", max_size=80))
def test_what_is_found_is_found_by_decoding_all(text):
    """Any letters: no word is found that is none, and each has the ends it has."""
    slowly = words(text)
    for start, end, inner in words_found(text):
        data = text.encode()
        assert (len(data[:start].decode()), len(data[:end].decode()), inner) in slowly


def test_little_of_prose_is_decoded():
    """Words of twelve letters and more, in a language that has many; otherwise the search would be for nothing."""
    rng = random.Random(7)
    letters = "eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllcccuuummmwwwffggyyppbbvk"
    text = " ".join("".join(rng.choices(letters, k=rng.randrange(12, 16))) for _ in range(5_000)).encode()

    assert 500 > len(list(engine_for(Policy())._encoded.finditer(text)))


@pytest.mark.parametrize("word", ["abc", "a" * 11, "=abcdefghijklm", "abcdefghijklm===", ""])
def test_what_is_no_word_is_none(word):
    assert [] == words_found(word) == words(word)
    assert word_at(b"." + word.encode()[:11] + b" ", 0) is None


def test_bytes_that_are_no_text_are_none():
    assert decode(base64.b64encode(bytes(range(128, 160)))) is None
    assert decode(b"a" * 13) is None
    assert "hello world, hello" == decode(base64.b64encode(b"hello world, hello"))


def test_places_and_tags_of_several_words():
    first, second = (base64.b64encode(each).decode() for each in (b"jane.doe@example.com", b"joe@example.com"))
    done = redact_json({"content": f"é {first} and {first}, {second}"}, Policy(numbered=True))

    assert "é [ENCODED_1] and [ENCODED_1], [ENCODED_2]" == done.body["content"]
    assert [(2, 2 + len(first)), (7 + len(first), 7 + 2 * len(first))] == [
        (each.start, each.end) for each in done.findings[:2]
    ]
