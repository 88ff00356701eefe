"""
What redaction finds, what it hits wrongly, and how fast it is, beside other tools.

    python -m bench.redaction [--quick] [--json] [--write FILE]

The sample is generated: about 1 MB of prose with planted items, 15 kinds that must be found and 17 that look like them and
must not. The seed is fixed, so everybody gets the same sample; `--write` keeps it. Recall is the share of planted items that are
covered to the last character, false is the share of look-alikes of which any character was hit.

A second sample, `bench/data/redaction-labelled.txt`, is in other styles (support mails, code, logs, German, Japanese, CSV) and was
labelled by hand: what should be tagged stands between ⟦KIND: and ⟧. What no pattern can find, names and addresses, is not labelled.

Speed is processor time, cases taking turns; the other tools see less text, since some take minutes for a megabyte. Everything
that looks like a key is made here, at run time, of pieces that are obviously none.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import sys
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

SEED = 20261124
LABELLED = Path(__file__).parent / "data" / "redaction-labelled.txt"
HEX = "0123456789abcdef"
WORDS = [
    "the",
    "plan",
    "was",
    "written",
    "down",
    "before",
    "anybody",
    "asked",
    "for",
    "it",
    "and",
    "since",
    "then",
    "people",
    "have",
    "read",
    "it",
    "more",
    "than",
    "once",
    "because",
    "a",
    "small",
    "team",
    "keeps",
    "asking",
    "what",
    "the",
    "model",
    "said",
    "about",
    "prices",
    "dates",
    "shipping",
    "returns",
    "weather",
    "music",
    "history",
    "planets",
    "recipes",
    "code",
    "tests",
    "reviews",
    "notes",
    "drafts",
    "letters",
    "reports",
    "summaries",
    "questions",
    "answers",
]
PIECES = {
    "HEX64": HEX * 4,
    "HEX32": HEX * 2,
    "ALNUM36": (HEX * 3)[:36],
    "UPPER16": "ABCDEFGHIJKLMNOP",
    "B64LINE": "QUJDREVGR0hJSktM" * 4,
    "DASHES": "-----",
}
"""What stands for `<HEX64>` and the like in the labelled sample: no file holds anything that looks like a key."""
Item = tuple[int, int, str, bool]
"""First character, behind the last, kind, whether it must be found."""
Tool = Callable[[str], Iterable[tuple[int, int]]]


class Maker:
    """Planted items. `random` with a fixed seed: the same sample for everybody."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def digits(self, count: int) -> str:
        return "".join(self.random.choice("0123456789") for _ in range(count))

    def letters(
        self, count: int, alphabet: str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    ) -> str:
        return "".join(self.random.choice(alphabet) for _ in range(count))

    # What must be found

    def email(self) -> str:
        name = self.random.choice(["jane.doe", "j_doe", "info+tag", "o'hara", "x", "max.mustermann99"])
        return f"{name}@{self.random.choice(['example', 'mail.example', 'a-b.example'])}.{self.random.choice(['com', 'org', 'co.uk', 'info'])}"

    def email_idn(self) -> str:
        return self.random.choice(
            ["jürgen@müller.example", "пётр@почта.рф", "info@xn--mller-kva.example", "josé@españa.example"]
        )

    def phone_us(self) -> str:
        area, line = self.random.choice(["212", "415", "312", "617", "206", "303"]), self.digits(4)
        middle = self.random.choice("23456789") + self.random.choice("023456789") + self.random.choice("023456789")
        form = self.random.choice(
            ["{}-{}-{}", "({}) {}-{}", "+1 {} {} {}", "+1-{}-{}-{}", "{} {} {}", "+1{}{}{}", "1-{}-{}-{}"]
        )
        return form.format(area, middle, line)

    def phone_foreign(self) -> str:
        return self.random.choice([
            "+44 20 7946 0" + self.digits(3), "+49 30 9018" + self.digits(4), "+49 (0)30 9018" + self.digits(4), "+4915112345" + self.digits(3),
            "+81 3-3123-" + self.digits(4), "+33 1 42 68 " + self.digits(2) + " " + self.digits(2),
        ])  # fmt: skip

    def ssn(self) -> str:
        area = self.random.choice([*range(1, 666), *range(667, 900)])
        return f"{area:03}-{self.random.randrange(1, 100):02}-{self.random.randrange(1, 10_000):04}"

    def _luhn(self, digits: str, *, right: bool = True) -> str:
        total = 0
        for place, digit in enumerate(reversed(digits)):
            value = int(digit) * (2 if place % 2 == 0 else 1)
            total += value - 9 if value > 9 else value
        check = -total % 10
        return digits + str(check if right else (check + self.random.randrange(1, 10)) % 10)

    def _grouped(self, number: str) -> str:
        separator = self.random.choice(["", " ", "-"])
        return separator.join(re.findall(r"....", number)) if separator else number

    def card(self) -> str:
        start = self.random.choice(["4", "51", "55", "2221", "6011"])
        return self._grouped(self._luhn(start + self.digits(15 - len(start))))

    def card_odd(self) -> str:
        start, length = self.random.choice(
            [("34", 15), ("37", 15), ("4", 13), ("4", 19), ("6304", 18), ("36", 14), ("5018", 17)]
        )
        number = self._luhn(start + self.digits(length - 1 - len(start)))
        return f"{number[:4]} {number[4:10]} {number[10:]}" if length == 15 and self.random.random() < 0.5 else number

    def iban(self, *, right: bool = True) -> str:
        country, account = self.random.choice([
            ("DE", self.digits(18)), ("GB", "NWBK" + self.digits(14)), ("NL", "ABNA" + self.digits(10)), ("FR", self.digits(23)),
        ])  # fmt: skip
        rest = "".join(str(int(letter, 36)) for letter in account + country) + "00"
        check = 98 - int(rest) % 97
        check = check if right else (check + self.random.randrange(1, 96)) % 97
        number = f"{country}{check:02}{account}"
        return " ".join(re.findall(r".{1,4}", number)) if self.random.random() < 0.5 else number

    def ip(self) -> str:
        if self.random.random() < 0.5:
            return ".".join(str(self.random.randrange(1, 255)) for _ in range(4))
        return self.random.choice(["2001:db8::", "2001:db8:1::", "fe80::1:"]) + self.letters(3, HEX) + "1"

    def key_model(self) -> str:
        return self.random.choice([
            "sk-or-v1-" + self.letters(64, HEX), "sk-proj-" + self.letters(48), "sk-" + self.letters(48), "sk-ant-api03-" + self.letters(80),
        ])  # fmt: skip

    def key_cloud(self) -> str:
        upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        return self.random.choice([
            "AK" + "IA" + self.letters(16, upper), "AI" + "za" + self.letters(35), "abc" + "8Q~" + self.letters(34), "ya" + "29." + self.letters(60),
        ])  # fmt: skip

    def key_code(self) -> str:
        return self.random.choice([
            "gh" + "p_" + self.letters(36), "github" + "_pat_" + self.letters(60), "gl" + "pat-" + self.letters(20), "xox" + "b-" + self.digits(12) + "-" + self.letters(24),
            "sk" + "_live_" + self.letters(24), "wh" + "sec_" + self.letters(32),
        ])  # fmt: skip

    def jwt(self) -> str:
        parts = [json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": self.digits(8)}), self.letters(32)]
        return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)

    def pem(self) -> str:
        name = self.random.choice(["RSA ", "EC ", "OPENSSH ", ""]) + "PRIVATE KEY-----"
        body = "\n".join(self.letters(64) for _ in range(6))
        return f"-----BEGIN {name}\n{body}\n{self.letters(30)}==\n-----END {name}"

    def credential(self) -> str:
        return self.letters(24) + "1"

    # What looks like it

    def unix_seconds(self) -> str:
        return str(self.random.randrange(1_500_000_000, 1_900_000_000))

    def unix_millis(self) -> str:
        return str(self.random.randrange(1_500_000_000_000, 1_900_000_000_000))

    def unix_nanos(self) -> str:
        return str(self.random.randrange(1_500_000_000_000_000_000, 1_900_000_000_000_000_000))

    def order_10(self) -> str:
        return str(self.random.randrange(2_000_000_000, 10_000_000_000))

    def order_dashed(self) -> str:
        return f"{self.digits(3)}-{self.digits(7)}-{self.digits(7)}"

    def decimal(self) -> str:
        return f"{self.random.random() * 100:.14f}"

    def decimal_like_phone(self) -> str:
        return f"{self.random.randrange(200, 999)}.{self.digits(3)}.{self.digits(4)}"

    def uuid(self) -> str:
        text = self.letters(32, HEX)
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def ssn_invalid(self) -> str:
        area = self.random.choice(["000", "666", str(self.random.randrange(900, 1000))])
        return self.random.choice(
            [
                f"{area}-{self.digits(2)}-{self.digits(4)}",
                f"123-00-{self.digits(4)}",
                f"123-{self.random.randrange(10, 99)}-0000",
            ]
        )

    def card_no_luhn(self) -> str:
        return self._grouped(self._luhn("4" + self.digits(14), right=False))

    def iban_wrong(self) -> str:
        return self.iban(right=False)

    def version(self) -> str:
        return self.random.choice(["v1.2.3", "10.0.19045", "2.31.0-rc1", "v4.18.0.1", "release 3.11.7"])

    def date(self) -> str:
        return self.random.choice(
            ["2026-11-24 10:22:33.123456", "24.11.2026", "11/24/2026 10:22", "2026-11-24T10:22:33.000+01:00"]
        )

    def sha256(self) -> str:
        return self.letters(64, HEX)

    def isbn(self) -> str:
        return f"978-{self.digits(1)}-{self.digits(2)}-{self.digits(6)}-{self.digits(1)}"

    def amount(self) -> str:
        return f"{self.random.randrange(1, 999)},{self.digits(3)},{self.digits(3)}.{self.digits(2)}"

    def code(self) -> str:
        return self.random.choice(
            [
                "std::vector<int>",
                "@app.route",
                "a::b::c",
                "task-scheduler-with-long-name-and-more",
                "user@host",
                "pkg@1.2.3",
            ]
        )


FOUND = [
    "email",
    "email_idn",
    "phone_us",
    "phone_foreign",
    "ssn",
    "card",
    "card_odd",
    "iban",
    "ip",
    "key_model",
    "key_cloud",
    "key_code",
    "jwt",
    "pem",
    "credential",
]
LOOK_ALIKE = [
    "unix_seconds",
    "unix_millis",
    "unix_nanos",
    "order_10",
    "order_dashed",
    "decimal",
    "decimal_like_phone",
    "uuid",
    "ssn_invalid",
    "card_no_luhn",
    "iban_wrong",
    "version",
    "date",
    "sha256",
    "isbn",
    "amount",
    "code",
]
IN_FRONT = {
    "credential": ["Authorization: Bearer ", "x-api-key: ", "curl https://user:", "https://files.example/x?token="],
    "email": ["", "<"],
    "unix_seconds": ["at ", ""],
}
BEHIND = {"curl https://user:": "@files.example/"}


def sample(size: int, seed: int = SEED) -> tuple[str, list[Item]]:
    """Prose with items in turn, look-alikes and others, each in the middle of a sentence."""
    maker, parts, items, length = Maker(seed), [], [], 0
    kinds = [(kind, True) for kind in FOUND] + [(kind, False) for kind in LOOK_ALIKE]
    while length < size:
        for kind, must in kinds:
            front = maker.random.choice(IN_FRONT.get(kind, [""]))
            prose = " ".join(maker.random.choice(WORDS) for _ in range(maker.random.randrange(20, 60)))
            head = f"{prose} {front}"
            value = getattr(maker, kind)()
            tail = BEHIND.get(front, "") + maker.random.choice([". ", " ", ", ", "\n", ") "])
            parts += (head, value, tail)
            items.append((length + len(head), length + len(head) + len(value), kind, must))
            length += len(head) + len(value) + len(tail)
    return "".join(parts), items


def labelled() -> tuple[str, list[Item]]:
    """The sample in other styles, and what was labelled in it."""
    parts, items, length = [], [], 0
    source = LABELLED.read_text(encoding="utf-8")
    for name, value in PIECES.items():
        source = source.replace(f"<{name}>", value)
    at = 0
    for found in re.finditer(r"⟦([A-Z_]+):(.*?)⟧", source, re.DOTALL):
        parts += (source[at : found.start()], found[2])
        length += found.start() - at
        items.append((length, length + len(found[2]), found[1], True))
        length += len(found[2])
        at = found.end()
    return "".join([*parts, source[at:]]), items


# Tools ------------------------------------------------------------------------------------------------------------


def ours(text: str) -> list[tuple[int, int]]:
    from openrouter_audit.core.redaction import redact

    return [(each.start, each.end) for each in redact(text)[1]]


OLD_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,}\b",
        r"\b\d{3}[-.]?\d{3}[-.]?\d{4}\b",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\bsk-or-v1-[a-zA-Z0-9]+\b",
        r"\b(?:\d{4}[- ]?){3}\d{4}\b",
    )
]


def five_patterns(text: str) -> list[tuple[int, int]]:
    return [found.span() for pattern in OLD_PATTERNS for found in pattern.finditer(text)]


def presidio() -> Tool | None:
    """All its English patterns without a model; its e-mail recogniser asks the network unless told where the suffixes are."""
    try:
        import presidio_analyzer.predefined_recognizers as known
        import tldextract
        from presidio_analyzer import EntityRecognizer
    except ImportError:
        return None
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())
    names = [
        "EmailRecognizer",
        "PhoneRecognizer",
        "UsSsnRecognizer",
        "CreditCardRecognizer",
        "IbanRecognizer",
        "IpRecognizer",
    ]
    recognizers: list[EntityRecognizer] = [getattr(known, name)() for name in names]

    def find(text: str) -> list[tuple[int, int]]:
        spans = []
        for each in recognizers:
            spans += [(found.start, found.end) for found in each.analyze(text, each.supported_entities, None)]
        return spans

    return find


def detect_secrets() -> Tool | None:
    """Its default plug-ins; it names lines and values, so a value is looked for in its line."""
    try:
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import default_settings
    except ImportError:
        return None

    def find(text: str) -> list[tuple[int, int]]:
        spans, at = [], 0
        with default_settings():
            for line in text.splitlines(keepends=True):
                for secret in scan_line(line):
                    value = secret.secret_value or ""
                    place = line.find(value) if value else -1
                    if place >= 0:
                        spans.append((at + place, at + place + len(value)))
                at += len(line)
        return spans

    return find


# Figures ----------------------------------------------------------------------------------------------------------


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def judge(spans: Iterable[tuple[int, int]], items: list[Item]) -> dict[str, float]:
    """By kind: the share covered where it must be found, the share touched where it must not."""
    found, counts, hits = merged(spans), defaultdict(int), defaultdict(int)
    starts = [start for start, _ in found]
    for start, end, kind, must in items:
        counts[kind] += 1
        place = bisect_right(starts, start) - 1
        covering = place >= 0 and found[place][1] >= end
        touching = (place >= 0 and found[place][1] > start) or (place + 1 < len(found) and found[place + 1][0] < end)
        hits[kind] += covering if must else touching
    return {kind: round(hits[kind] / counts[kind], 3) for kind in counts}


def precision(spans: Iterable[tuple[int, int]], items: list[Item]) -> tuple[float, float, list[tuple[int, int]]]:
    """Share of findings that touch a label, share of labels that are covered, and the findings that touch none."""
    found = list(spans)
    wrong = [(a, b) for a, b in found if not any(a < end and start < b for start, end, _, _ in items)]
    covered = merged(found)
    missed = sum(not any(a <= start and end <= b for a, b in covered) for start, end, _, _ in items)
    return round(1 - len(wrong) / max(1, len(found)), 3), round(1 - missed / max(1, len(items)), 3), wrong


def speed(cases: dict[str, tuple[Tool, str]], rounds: int) -> dict[str, float]:
    """MB/s of processor time, the median of rounds in which the cases take turns."""
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, (tool, text) in cases.items():
            repeats = max(1, 200_000 // len(text)) if tool is ours else 1
            started = time.process_time()
            for _ in range(repeats):
                tool(text)
            taken[name].append(len(text) * repeats / max(1e-9, time.process_time() - started) / 1e6)
    return {name: round(median(each), 2) for name, each in taken.items()}


def bodies(clean: str) -> dict[str, bytes]:
    """What is walked inside a call: requests and answers of usual sizes, and the same with something to find."""
    question = "What is the capital of France, and how many people live there?"
    answer = "The capital of France is Paris, with about two million people."

    def request(content: str, **more: object) -> bytes:
        system = {"role": "system", "content": "You are a helpful assistant."}
        body = {
            "model": "openai/gpt-5.2",
            "messages": [system, {"role": "user", "content": content}],
            "temperature": 0.2,
            **more,
        }
        return json.dumps(body).encode()

    def response(content: str) -> bytes:
        message = {"role": "assistant", "content": content, "refusal": None, "reasoning": None}
        choice = {
            "logprobs": None,
            "finish_reason": "stop",
            "native_finish_reason": "stop",
            "index": 0,
            "message": message,
        }
        usage = {
            "prompt_tokens": 14,
            "completion_tokens": 9,
            "total_tokens": 23,
            "cost": 0.000123,
            "cost_details": {"upstream_inference_cost": None},
        }
        head = {"id": "gen-1764000000-" + "abcdefghijklmnopqrst", "provider": "OpenAI", "model": "openai/gpt-5.2"}
        return json.dumps(
            head | {"object": "chat.completion", "created": 1764000000, "choices": [choice], "usage": usage}
        ).encode()

    found = " Write to jane.doe@example.com."
    return {
        "body: short request": request(question),
        "body: short answer": response(answer),
        "body: 100 KB request": request(clean[:100_000]),
        "body: short request, end user named": request(question, user="u-123"),
        "body: short request, address": request(question + found),
        "body: short answer, address": response(answer + found),
        "body: 100 KB request, address": request(clean[:100_000] + found),
    }


def body_times(clean: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Microseconds of processor time of one walk: the median of rounds in which the bodies take turns, and the least."""
    from openrouter_audit.core.redaction import redact_json

    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, body in bodies(clean).items():
            repeats = max(20, 100_000 // len(body))
            started = time.process_time()
            for _ in range(repeats):
                redact_json(body)
            taken[name].append((time.process_time() - started) / repeats * 1e6)
    return {name: (round(median(each), 1), round(min(each), 1)) for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    text, items = sample(250_000 if arguments.quick else 1_000_000)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    clean = (
        " ".join(random.Random(SEED).choice(WORDS) for _ in range(180_000))
        + " in 2024, 35 of 40 said so (see page 7).\n"
    )
    sparse = "".join(clean[at : at + 10_000] + " jane.doe@example.com " for at in range(0, len(clean), 10_000))
    tools: dict[str, Tool | None] = {
        "openrouter-audit": ours,
        "five patterns": five_patterns,
        "presidio": presidio(),
        "detect-secrets": detect_secrets(),
    }
    figures: dict[str, object] = {"sample_bytes": len(text.encode()), "items": len(items)}
    ours("jane.doe@example.com 212-555-0187 DE00")  # what is loaded on first use
    accuracy = {name: judge(tool(text), items) for name, tool in tools.items() if tool}
    cases: dict[str, tuple[Tool, str]] = {
        "openrouter-audit clean": (ours, clean),
        "openrouter-audit sparse": (ours, sparse),
        "openrouter-audit dense": (ours, text),
        "openrouter-audit 1 KB": (ours, clean[:1024]),
    }
    for name, tool in tools.items():
        if tool and tool is not ours:
            short = {"five patterns": 300_000, "presidio": 40_000, "detect-secrets": 10_000}[name]
            cases |= {f"{name} clean": (tool, clean[:short]), f"{name} dense": (tool, text[:short])}
    rates = speed(cases, 3 if arguments.quick else 7)
    figures |= {
        "recall": {kind: accuracy["openrouter-audit"][kind] for kind in FOUND},
        "false": {kind: accuracy["openrouter-audit"][kind] for kind in LOOK_ALIKE},
        "mb_per_s": rates,
        "us_per_clean_kb": round(1024 / rates["openrouter-audit 1 KB"], 2),
        "not_installed": [name for name, tool in tools.items() if tool is None],
        "tools": accuracy,
    }
    other, labels = labelled()
    styles = {}
    for name, tool in tools.items():
        if tool:
            right, recall, wrong = precision(tool(other), labels)
            styles[name] = {"precision": right, "recall": recall}
            if tool is ours:
                covered = merged(tool(other))
                figures["labelled_wrong"] = [other[a:b] for a, b in wrong]
                figures["labelled_missed"] = [
                    f"{kind}: {other[a:b]}"
                    for a, b, kind, _ in labels
                    if not any(s <= a and b <= e for s, e in covered)
                ]
    figures |= {"labelled": styles, "labels": len(labels)}
    figures["body_us"] = body_times(clean, 5 if arguments.quick else 15)
    if not arguments.json:
        show(figures, accuracy, rates)
    print(json.dumps(figures, ensure_ascii=False))


def show(figures: dict[str, object], accuracy: dict[str, dict[str, float]], rates: dict[str, float]) -> None:
    names = list(accuracy)
    print(f"{'':22}" + "".join(f"{name:>18}" for name in names))
    for title, kinds in (("recall", FOUND), ("false", LOOK_ALIKE)):
        print(title)
        for kind in kinds:
            print(f"  {kind:20}" + "".join(f"{accuracy[name][kind]:18.3f}" for name in names))
    print("MB/s (processor time)")
    for name, rate in rates.items():
        print(f"  {name:38}{rate:10.2f}")
    print("microseconds of the calling thread for a body: median, least")
    for name, (middle, least) in figures["body_us"].items():  # type: ignore[attr-defined]
        print(f"  {name:38}{middle:10.1f}{least:10.1f}")
    print(f"microseconds for a clean KB: {figures['us_per_clean_kb']}")
    print(f"other styles, {figures['labels']} labels: {figures['labelled']}")
    for name in figures["not_installed"]:  # type: ignore[attr-defined]
        print(f"{name}: not installed")


if __name__ == "__main__":
    sys.exit(main())
