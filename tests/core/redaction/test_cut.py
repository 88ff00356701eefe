"""
A text that was cut: what may be the beginning of a secret is dropped, since no pattern knows half of one.
"""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.redaction.pieces import GLUE, HEX, JWT, KEYS, PEM, encoded_forms

from openrouter_audit.core.redaction import Cut, OwnPattern, Policy, redact_json
from openrouter_audit.core.redaction.cut import SIGHT

SECRETS = {
    "e-mail": "jane.doe.the.second@mail.example.com", "e-mail, letters": "jürgen@müller.example", "e-mail, escaped": "jane%40example.com",
    "phone": "212-555-0187", "phone, spaces": "(212) 555-0187", "phone, world": "+44 20 7946 0123", "ssn": "123-45-6789", "card": "4111 1111 1111 1111",
    "card, digits": "378282246310005", "iban": "DE89 3704 0044 0532 0130 00", "iban, digits": "GB29NWBK60161331926819", "ip": "203.0.113.77",
    "ip, long": "2001:db8::8a2e:370:7334", "jwt": JWT, "jwt, long": JWT.replace(".", "." + "QUJDREVGR0hJSktM" * 200, 1), "pem": PEM, "many": HEX * 300,
    **{f"key, {name}": key for name, key in KEYS.items()},
    **{f"encoded {number}": form for number, form in enumerate(encoded_forms("jane.doe@example.com, and her card 4111111111111111")[:-2])},
}  # fmt: skip
IN_FRONT = ["", "so ", "Call me at ", "word,", '{"a": "', "x=", "\n", "電話は", "Authorization: Bearer ", "api_key: ", "https://user:", "https://a.example/?token=", "cookie: session=", "password "]  # fmt: skip
PIECE = 6


def pieces_left(secret, shown):
    pieces = {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}
    return [piece for piece in pieces if piece in shown]


def kept(text, **kw):
    shown = redact_json({"content": Cut(text)}, **kw).body["content"]
    assert not isinstance(shown, Cut) or shown == text
    return shown


def hidden(secret):
    """A secret's own letters: the line that says what a block is, and what every hook's address begins with, are none."""
    if secret == PEM:
        return secret.split("-----")[2]
    return secret.removeprefix("hooks." + "slack.com/services/")


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_of_a_secret_across_the_cut_nothing_is_left(secret):
    """Wherever it is cut, and in front of it what it often stands behind."""
    places = range(len(secret) + 1) if len(secret) < 200 else [*range(200), *range(200, len(secret), 97), len(secret)]
    for front in IN_FRONT:
        if secret == PEM and front.startswith("cookie"):
            continue  # its first line is taken for the cookie, cut or whole
        for place in places:
            text = f"It was written before, {front}{secret[:place]}"
            shown = kept(text)
            assert not pieces_left(hidden(secret), shown), (front, place, shown)
            assert shown.startswith("It was written before, "), (front, place, shown)


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(sorted(SECRETS)),
    before=st.lists(st.one_of(st.sampled_from([*GLUE, *IN_FRONT, "plain words ", "電話" * 40]), st.text(max_size=8)), max_size=6).map("".join),
    share=st.floats(0, 1),
)  # fmt: skip
def test_of_any_secret_that_is_found_whole_nothing_is_left(name, before, share):
    secret = SECRETS[name]
    if pieces_left(hidden(secret), redact_json({"content": f"{before} {secret}"}).body["content"]):
        return  # what stands in front hides it when it is whole, too
    shown = kept(f"{before} {secret[: round(len(secret) * share)]}")
    left = [piece for piece in pieces_left(hidden(secret), shown) if piece not in before]

    assert not left


def test_what_is_decided_stays():
    """Of prose, a word or two are dropped; what was found before is a tag as ever."""
    assert "The answer is simple, and " == kept("The answer is simple, and mor")
    assert "Write to [EMAIL] or call " == kept("Write to a@b.example or call 212 55")
    assert "a whole line\n" == kept("a whole line\n")
    assert "" == kept("")
    assert "" == kept("jane.doe@exam")


@pytest.mark.parametrize(
    "text", ["電話は" * 2_000, "A,B;1 " * 900, "1764 " * 5_000, "a.b/c?" * 3_000 + "\x00" * SIGHT], ids=range(4)
)
def test_a_text_without_a_quiet_place_loses_its_end_only(text):
    shown = kept(text)

    assert text.startswith(shown)
    assert len(text.encode()) - len(shown.encode()) <= SIGHT + len("a.b/c?" * 3_000) * ("?" in text)
    assert len(shown) > len(text) // 2 or "?" in text


def test_a_long_word_at_the_end_is_dropped_whole():
    """It may be the beginning of a token, or encode anything."""
    for word in (
        "eyJ" + "QUJDREVG" * 50,
        base64.b64encode(b"ask jane.doe@example.com " * 12).decode(),
        "https://" + "u" * 2_000,
    ):
        assert "so it is, " == kept(f"so it is, {word}", policy=Policy(off=frozenset({"MEDIA"})))


def test_a_block_that_was_cut_is_a_block():
    assert "see [PRIVATE_KEY]" == kept(f"see {PEM[:120]}")


def test_own_patterns_may_have_spaces():
    """They are matched within a line, so the line that was cut is dropped."""
    policy = Policy(patterns=(OwnPattern(name="PATIENT", pattern="patient [a-z]+ of ward [0-9]+"),))

    assert "one\n" == kept("one\nand patient jane of war", policy=policy)


def test_json_that_is_whole_was_not_cut():
    assert '{"a": "an end"}' == kept('{"a": "an end"}')
    assert '{"a": "an ' == kept('{"a": "an en')


def test_a_name_announces_the_value_that_was_cut():
    assert {"x-api-key": ""} == redact_json({"x-api-key": Cut("abcdefgh")}).body
    assert {"user_id": "[USER_ID]"} == redact_json({"user_id": Cut("u-12")}).body
    assert {"phone": ""} == redact_json({"phone": Cut("212555")}).body
    assert [{"content": ["so "]}] == redact_json([{"content": [Cut("so i")]}]).body


def test_an_object_is_the_same_where_nothing_was_dropped():
    value = {"content": Cut("a whole line\n")}

    assert value is redact_json(value).body


def test_detectors_see_what_is_kept():
    class Names:
        def find(self, text):
            return [("PERSON", text.index("Jane"), text.index("Jane") + 4)] if "Jane" in text else []

    assert "so [PERSON] asked " == kept("so Jane asked fo", policy=Policy(detectors=(Names(),)))


def test_secrets_have_the_forms_that_are_found():
    """Whole, each is a finding; so the cases above are about something."""
    for name, secret in SECRETS.items():
        assert redact_json({"content": f"so {secret} it is"}).findings or name == "many", name
    assert HEX in SECRETS["many"]


def test_a_block_behind_the_name_of_a_header_is_a_block():
    """Its first line alone is no credential; what follows it is."""
    done = redact_json({"content": f"Authorization: Bearer {PEM} and so on"})

    assert {"content": "Authorization: Bearer [PRIVATE_KEY] and so on"} == done.body
