"""What a user may change: classes, own patterns, national ids, detectors; and what is refused."""

import subprocess
import sys

import pytest

from openrouter_audit.core.redaction import Finding, OwnPattern, Policy, Redactor, redact
from openrouter_audit.core.redaction.national import _is_valid
from openrouter_audit.errors import ConfigError, PatternError


def own(pattern, name="ORDER"):
    return Policy(patterns=(OwnPattern(name=name, pattern=pattern),))


def test_an_own_pattern_is_found_with_its_own_tag():
    policy = own(r"ORD-\d{6}|Größe \d+")

    assert "so [ORDER], [ORDER], [EMAIL]" == redact("so ORD-123456, Größe 12, a@b.example", policy)[0]
    assert b"\xff[ORDER]" == redact(b"\xffORD-123456", policy)[0]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a", "missing"), (r"(?=a)b", "invalid perl"), (r"(a)\1", "invalid escape"), (r"a*", "where nothing is"), (r"((a{100}){100}){100}", "repetition"),
        (r"(\pL{200}){5}", "too large"), ("\ud800", "surrogates"),
    ],
)  # fmt: skip
def test_a_bad_pattern_is_refused_with_the_reason(pattern, reason):
    with pytest.raises(PatternError, match=reason) as caught:
        redact("x", own(pattern))

    assert "ORDER" == caught.value.name
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("name", ["order", "EMAIL", "", "A" * 33, "A]B", "A\n", "1A"])
def test_a_bad_name_is_refused(name):
    with pytest.raises(PatternError):
        OwnPattern(name=name, pattern="x")
    with pytest.raises(PatternError):
        Policy(patterns=(OwnPattern(name="A", pattern="x"), OwnPattern(name="A", pattern="y")))


def test_an_own_pattern_never_eats_a_tag_or_a_line():
    policy = own(r"[A-Z]+|\[|.*zz")

    shown, _ = redact("EMAIL a@b.example [PHONE]\nabc\nzz", policy)
    assert "[ORDER] [EMAIL] [PHONE]\nabc\n[ORDER]" == shown
    assert (shown, []) == redact(shown, policy)


def test_classes_can_be_left_as_they_are():
    assert "a@b.example [IP]" == redact("a@b.example 10.0.0.1", Policy(off=frozenset({"EMAIL"})))[0]
    with pytest.raises(ConfigError, match="NAME"):
        Policy(off=frozenset({"NAME"}))


def test_national_ids_of_countries_that_are_on():
    assert "id 36 574 261 809" == redact("id 36 574 261 809")[0]
    assert (
        "id [NATIONAL_ID] and 36 574 261 808"
        == redact("id 36 574 261 809 and 36 574 261 808", Policy(national_ids=("de",)))[0]
    )
    with pytest.raises(ConfigError, match="XX"):
        redact("x", Policy(national_ids=("XX",)))


class Names:
    """A detector with switches."""

    def __init__(self, *names, fail=None):
        self.names, self.fail, self.seen = names, fail, []

    def find(self, text):
        self.seen.append(text)
        if self.fail:
            raise self.fail
        return [("PERSON", text.index(name), text.index(name) + len(name)) for name in self.names if name in text]


def test_a_detector_sees_tags_and_its_findings_are_replaced_too():
    names = Names("Jane Doe", "Zoë")
    text = "Jane Doe <jane@example.com> und Zoë"

    assert "[PERSON] <[EMAIL]> und [PERSON]" == redact(text, Policy(detectors=(names,)))[0]
    assert ["Jane Doe <[EMAIL]> und Zoë"] == names.seen
    findings = redact(text, Policy(detectors=(names,)))[1]
    assert ["Jane Doe", "jane@example.com", "Zoë"] == [text[each.start : each.end] for each in findings]
    shown, findings = redact(text.encode(), Policy(detectors=(names,)))
    assert b"[PERSON] <[EMAIL]> und [PERSON]" == shown
    assert "Zoë".encode() == text.encode()[findings[-1].start : findings[-1].end]


def test_a_detector_that_fails_costs_the_text():
    for detector in (Names(fail=RuntimeError("no model")), Names(fail=RecursionError())):
        assert ("[WITHHELD]", [Finding(kind="WITHHELD", start=0, end=9)]) == redact(
            "some text", Policy(detectors=(detector,))
        )

    class Liar:
        def find(self, text):
            return [("PERSON", 3, 99)]

    assert "[WITHHELD]" == redact("some text", Policy(detectors=(Liar(),)))[0]


def test_with_a_detector_a_text_in_pieces_waits_for_its_end():
    redactor = Redactor(Policy(detectors=(Names("Jane Doe"),)))

    assert ["", ""] == [redactor.feed("so Jane "), redactor.feed("Doe it is")]
    assert "so [PERSON] it is" == redactor.finish()
    assert ["PERSON"] == [each.kind for each in redactor.findings]


@pytest.mark.parametrize(
    ("missing", "said"), [("re2", "google-re2"), ("phonenumbers", "phonenumbers"), ("stdnum", "stdnum")]
)
def test_without_the_extra_an_error_names_it(missing, said):
    """Whichever of its libraries is missing: at the first text, before anything is kept."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
from openrouter_audit import redact
from openrouter_audit.errors import ExtraMissing
try:
    redact('plain')
except ExtraMissing as error:
    print(error.extra, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("redaction")
    assert said in done.stdout
    assert "openrouter-audit[redaction]" in done.stdout


@pytest.mark.parametrize(
    ("broken", "text", "said"),
    [("phonenumbers", "+1 212 555 0187", "phonenumbers"), ("stdnum", "36 574 261 809", "python-stdnum")],
)
def test_a_library_that_is_there_and_cannot_be_loaded_is_missing(tmp_path, broken, text, said):
    """Half installed, or in the way: the text is not kept, and the error names what is missing."""
    (tmp_path / broken).mkdir()
    (tmp_path / broken / "__init__.py").write_text("def __getattr__(name): raise ImportError(name)\n")
    if broken == "phonenumbers":
        (tmp_path / broken / "__init__.py").write_text("raise ImportError('half installed')\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from openrouter_audit.core.redaction import Policy, redact
from openrouter_audit.errors import ExtraMissing
try:
    redact({text!r}, Policy(national_ids=("DE",) if {broken!r} == "stdnum" else ()))
except ExtraMissing as error:
    print(error.extra, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("redaction")
    assert said in done.stdout


def test_a_check_that_stumbles_over_a_number_has_not_found_it_right():
    def stumbles(value):
        raise ZeroDivisionError

    assert not _is_valid(stumbles, b"36 574 261 809")
    assert not _is_valid(str.isdigit, b"\xff")
    assert _is_valid(str.isdigit, b"7")


def test_a_region_without_numbers_has_none():
    """A code that nobody has given out: the text is searched for all the others."""
    policy = Policy(phone_regions=("XX", "DE"))

    assert "tel [PHONE]" == redact("tel 030 901820", policy)[0]
    assert "tel 030 901820" == redact("tel 030 901820", Policy(phone_regions=("XX",)))[0]


def test_importing_loads_none_of_the_libraries():
    """Nor `ipaddress`, which is slow to load; what the interpreter itself may have loaded by then is forgotten first."""
    code = """
import sys
heavy = ("re2", "phonenumbers", "stdnum", "ipaddress")
for name in heavy:
    sys.modules.pop(name, None)
import openrouter_audit.core.redaction
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
