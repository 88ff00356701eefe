"""Each class is found in the forms people write it in, and its look-alikes are left alone."""

import base64

import pytest
from tests.core.redaction.pieces import HEX, JWT, KEYS, PEM

from openrouter_audit.core.redaction import Policy, redact, redact_pii

FOUND = [
    ("EMAIL", "jane.doe@example.com"), ("EMAIL", "o'hara+tag@mail.example.co.uk"), ("EMAIL", "jürgen@müller.example"), ("EMAIL", "пётр@почта.рф"),
    ("EMAIL", "info@xn--mller-kva.example"), ("EMAIL", "jane%40example.com"),
    ("PHONE", "212-555-0187"), ("PHONE", "(212) 555-0187"), ("PHONE", "+1 212 555 0187"), ("PHONE", "+12125550187"), ("PHONE", "1-212-555-0187"),
    ("PHONE", "212 555 0187"), ("PHONE", "212\u2011555\u20110187"), ("PHONE", "+49 30 901820"), ("PHONE", "+49 (0)30 901820"), ("PHONE", "+44 20 7946 0123"),
    ("PHONE", "+81 3-3123-4567"), ("PHONE", "0049 30 901820"), ("PHONE", "555-123-4567"),
    ("SSN", "123-45-6789"), ("SSN", "665-01-0001"), ("SSN", "899-99-9999"),
    ("CARD", "4111111111111111"), ("CARD", "4111 1111 1111 1111"), ("CARD", "5555-5555-5555-4444"), ("CARD", "378282246310005"), ("CARD", "3782 822463 10005"),
    ("CARD", "4222222222222"), ("CARD", "30569309025904"), ("CARD", "6304000000000000000"),
    ("IBAN", "DE89370400440532013000"), ("IBAN", "DE89 3704 0044 0532 0130 00"), ("IBAN", "GB29 NWBK 6016 1331 9268 19"), ("IBAN", "NO93 8601 1117 947"),
    ("IP", "203.0.113.77"), ("IP", "2001:db8::8a2e:370:7334"), ("IP", "2001:db8:1:2:3:4:5:6"), ("IP", "fe80::1"), ("IP", "::ffff:192.0.2.1"),
    ("JWT", JWT), ("PRIVATE_KEY", PEM), ("PRIVATE_KEY", PEM.replace("\n", "\\n")),
    ("PEM", PEM.replace("RSA PRIVATE KEY", "CERTIFICATE")), ("MEDIA", "data:image/png;base64," + "QUJD" * 9),
    *(("API_KEY", key) for key in KEYS.values()),
]  # fmt: skip
BEHIND_A_NAME = [
    ("PHONE", "phone: ", "2125550187"), ("PHONE", "Call me at ", "212.555.0187"), ("PHONE", "Tel. ", "030 901820"), ("PHONE", "mobil ", "0171 1234567"),
    ("PHONE", "電話\uff1a", "03-3123-4567"), ("SSN", "SSN ", "123456789"), ("SSN", "social security number: ", "123 45 6789"),
    ("CREDENTIAL", "Authorization: Bearer ", HEX), ("CREDENTIAL", "Authorization: Basic ", base64.b64encode(b"user:secret").decode()),
    ("CREDENTIAL", "Authorization: ", HEX * 2), ("CREDENTIAL", "Authorization: Digest ", 'username="x", response="' + HEX + '"'),
    ("CREDENTIAL", "x-api-key: ", HEX), ("CREDENTIAL", "OPENAI_API_KEY=", "abcd" + HEX), ("CREDENTIAL", "aws_secret_access_key = ", "wJalr" + HEX * 2 + "ABC"),
    ("CREDENTIAL", "AccountKey=", HEX * 5 + "=="), ("CREDENTIAL", "Set-Cookie: ", "session=" + HEX + "; Path=/"), ("CREDENTIAL", "https://", "user:letmein"),
    ("CREDENTIAL", "https://x.example/?access_token=", HEX), ("CREDENTIAL", "https://x.example/?a=b&X-Amz-Signature=", HEX * 4),
    ("API_KEY", "Authorization: Bearer ", KEYS["openrouter"]), ("JWT", "authorization: bearer ", JWT), ("CREDENTIAL", "Bearer ", "abc" + HEX),
]  # fmt: skip
LEFT_ALONE = [
    "1732441200", "1732441200123", "1732441200123456", "1732441200123456789", "order 4155551234", "114-3941689-8772232", "3.14159265358979", "415.926.5358",
    "0.4111111111111111", "550e8400-e29b-41d4-a716-446655440000", HEX * 4, "9fceb02d0ae598e95dc970b74767f19372d61af8", "000-12-3456", "666-12-3456",
    "900-12-3456", "123-00-4567", "123-45-0000", "123-456-7890", "4111111111111112", "4111 1111 1111 1112", "1234-5678-9012-3456", "356938035643809",
    "9783161484100", "DE00370400440532013000", "GB29 NWBK 6016 1331 9268 18", "v1.2.3.4", "version 1.2.3.4", "256.1.1.1", "1.2.3", "10:22:33", "std::vector<int>",
    "a::b", "face::add", "00:1a:2b:3c:4d:5e", "2026-11-24 10:22:33.123", "24.11.2026", "1,234,567.89", "@app.route", "user@host", "pkg@1.2.3", "git@github.com:a/b.git",
    "task-scheduler-with-a-long-name", "risk-management-2026-plan", "sk-learn is a library", "Bearer of good news", "basic understanding", "authorization: required",
    'os.environ["OPENROUTER_API_KEY"]', "max_tokens = 4096", "https://example.com/a?b=c", "http://localhost:8080/x@y", "eyJub3QiOiJhIHRva2VuIn0", "see section 10.0.0.1",
    "call 911", "tel 12", "-----BEGIN", "data:image/png", "[EMAIL] [PHONE_2] [SSN] [CARD] [API_KEY]", "AKIA", "AKIAIOSFODNN7EXAMPL", "",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), FOUND, ids=lambda value: value[:30])
@pytest.mark.parametrize("around", ["{}", "See {} now", "({})", '"{}"', "a,{},b", "line\n{}\nline", "これは {} です"])
def test_found_wherever_it_stands(kind, value, around):
    text = around.format(value)
    shown, findings = redact(text)

    assert around.format(f"[{kind}]") == shown
    assert [(kind, value)] == [(each.kind, text[each.start : each.end]) for each in findings]


@pytest.mark.parametrize(("kind", "name", "value"), BEHIND_A_NAME)
def test_found_behind_what_announces_it(kind, name, value):
    end = "@db.example/x" if "user:" in value else "\n"
    shown, findings = redact(f"so {name}{value}{end}")

    assert f"so {name}[{kind}]{end}" == shown
    assert 1 == len(findings)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_look_alikes_are_left_alone(text):
    assert (text, []) == redact(text)
    assert f"so {text} it is" == redact_pii(f"so {text} it is")


def test_a_block_that_was_cut_off_is_found_as_far_as_it_goes():
    """Some words behind it go too: a block may have a comment in front, so not every word is of base64."""
    cut = PEM.rpartition("\n")[0]

    assert "[PRIVATE_KEY]" == redact_pii(cut)
    assert "[PRIVATE_KEY]" == redact_pii(cut[: len(cut) // 2])
    assert redact_pii(f"{cut}\n{'word ' * 40}").startswith("[PRIVATE_KEY]")
    assert redact_pii(f"{cut}\n{'word ' * 40}").endswith("word word ")


def test_a_number_behind_a_card_is_not_lost_with_it():
    assert "[CARD] 123" == redact_pii("4111 1111 1111 1111 123")
    assert "[PHONE] 2026" == redact_pii("+1 212 555 0187 2026")


def test_text_around_an_address_in_a_script_without_spaces_stays():
    assert "連絡先は[EMAIL]です" == redact_pii("連絡先はtaro@example.jpです")


def test_bare_numbers_are_telephone_numbers_where_the_policy_says_so():
    assert "order [PHONE]" == redact("order 2125550187", Policy(any_phone=True))[0]
    assert "415.926.5358" == redact_pii("415.926.5358")


def test_the_tags_of_older_logs_are_kept():
    text = f"jane@example.com 212-555-0187 123-45-6789 4111-1111-1111-1111 {KEYS['openrouter']}"

    assert "[EMAIL] [PHONE] [SSN] [CARD] [API_KEY]" == redact_pii(text)


def test_numbers_are_those_the_library_calls_valid():
    """We judge by the patterns in its metadata, since its parser takes fifty times as long: the answers are the same."""
    import random

    import phonenumbers

    from openrouter_audit.core.redaction.numbers import is_number_of

    rng = random.Random(7)
    for _ in range(3_000):
        code = rng.choice([1, 44, 49, 33, 81, 91, 55, 61, 7, 86])
        national = str(rng.randrange(10 ** rng.choice([6, 7, 8, 9]), 10**10))
        number = phonenumbers.PhoneNumber(country_code=code, national_number=int(national))
        assert phonenumbers.is_valid_number(number) == is_number_of(code, national), (code, national)
