"""
What tests plant: made of pieces at run time, so that no file holds anything that looks like a key.
"""

from __future__ import annotations

import base64
import json
import random

HEX = "0123456789abcdef"


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


JWT = ".".join([b64url(b'{"alg":"HS256","typ":"JWT"}'), b64url(b'{"sub":"1234567890"}'), HEX * 2])
PEM = "\n".join([
    "-----BEGIN " + "RSA PRIVATE KEY-----", "QUJDREVGR0hJSktM" * 4, "QUJDREVGR0hJSktM" * 4, "QUJD==", "-----END " + "RSA PRIVATE KEY-----",
])  # fmt: skip
KEYS = {
    "openrouter": "sk-or-" + "v1-" + HEX * 4,
    "openai": "sk-" + "proj-" + HEX * 6,
    "openai, old": "sk-" + (HEX * 3),
    "anthropic": "sk-" + "ant-api03-" + HEX * 5,
    "aws": "AK" + "IA" + "ABCDEFGHIJKLMNOP",
    "gcp": "AI" + "za" + "Sy" + (HEX * 3)[:33],
    "gcp token": "ya" + "29." + HEX * 3,
    "azure": "abc" + "8Q~" + (HEX * 3)[:34],
    "github": "gh" + "p_" + (HEX * 3)[:36],
    "github, fine": "github" + "_pat_" + HEX * 4,
    "gitlab": "gl" + "pat-" + HEX + "abcd",
    "slack": "xox" + "b-" + "123456789012-" + HEX,
    "slack hook": "hooks." + "slack.com/services/T0000FAKE/B0000FAKE/" + HEX,
    "stripe": "sk" + "_live_" + HEX + HEX,
    "stripe hook": "wh" + "sec_" + HEX * 2,
}
ALL = [
    "jane.doe@example.com", "jürgen@müller.example", "jane%40example.com", "212-555-0187", "(212) 555-0187", "+1 212 555 0187", "+49 30 901820",
    "+44 20 7946 0123", "123-45-6789", "4111 1111 1111 1111", "378282246310005", "6304000000000000000", "DE89 3704 0044 0532 0130 00",
    "GB29NWBK60161331926819", "203.0.113.77", "2001:db8::8a2e:370:7334", JWT, PEM, "Authorization: Bearer " + HEX, "Basic " + "dXNlcjpwYXNzd29yZA==",
    "https://user:letmein1@db.example/x", "https://files.example/?sig=" + HEX, "Cookie: session=" + HEX + "; a=b", "x-api-key: " + HEX,
    "data:image/png;base64,QUJDREVGR0hJSktM", *KEYS.values(),
]  # fmt: skip
GLUE = [
    "\n", "\\n", " ", "  ", ".", ",", ":", ";", "@", "%40", "]", "[", "[EMAIL]", "[PHONE_1]", "tel ", "call me at ", "phone", "ssn ", "version ", "Bearer ",
    "Digest ", "Authorization: ", "authorization", "secret access key: ", "token ", "key ", "cookie: ", "?token=", "://", "-----BEGIN " + "PRIVATE KEY-----",
    "-----END " + "PRIVATE KEY-----", "data:image/png;base64,", "word ", "é", "電話", "\ud800", "\x00", "1", "12", "123", "1234", "555", "0", "+", "(", ")",
    "-", "/", "=", "'", '"', "_", "x", "A", "sk-", "eyJ", "AKIA", "::", "\xa0", "\u2011", "9" * 9, "a" * 40, "0171 1234567", "00", "git@github.com:",
]  # fmt: skip


def made_up(rng: random.Random) -> str:
    """A text of things that must be found, of their parts, and of what may stand between them."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        whole = rng.choice(ALL) if rng.random() < 0.4 else rng.choice(GLUE)
        if rng.random() < 0.2:
            first = rng.randrange(len(whole))
            whole = whole[first : first + rng.randrange(1, 30)]
        parts.append(whole)
    return "".join(parts)


def encoded_forms(value: str) -> list[str]:
    """How a value may be there and not be seen: base64 and hex of its UTF-8 and UTF-16, and JSON escapes."""
    forms = []
    for data in (value.encode(), value.encode("utf-16-le"), value.encode("utf-16-be")):
        forms += [
            base64.b64encode(data).decode(),
            base64.urlsafe_b64encode(data).decode().rstrip("="),
            data.hex(),
            data.hex().upper(),
        ]
    return [*forms, "".join(f"\\u{ord(letter):04x}" for letter in value), json.dumps(value)[1:-1]]
