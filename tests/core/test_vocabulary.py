"""Strange values are left out and named; only a missing necessity keeps facts out of the tree."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import KINDS, MAX_ENTRY_BYTES, CallIntent, CallOutcome, kind_of_class
from openrouter_audit.core.vocabulary import admit, admit_private

CALL = "0123456789abcdef" * 2
OUTCOME = {"kind": "call.outcome", "v": 1, "id": CALL, "at_us": 5, "status": "success", "complete": True}
INTENT = {
    "kind": "call.intent",
    "v": 1,
    "id": CALL,
    "at_us": 5,
    "group": CALL,
    "attempt": 1,
    "endpoint": "chat",
    "method": "POST",
}

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**53)
    | st.floats()
    | st.text(max_size=200)
    | st.binary(max_size=20)
    | st.sampled_from(["sk-or-v1-" + "ab" * 32, "gpt", "\ud800", "0.5", "1e-7", "m" * 100_000]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=10,
)


@given(st.data())
def test_whatever_facts_hold_an_admitted_entry_keeps_to_its_vocabulary(data):
    """
    Any value in any field: what is admitted encodes, fits, decodes strictly, and holds no key.
    """
    kind = data.draw(st.sampled_from(KINDS))
    base = (
        INTENT
        if kind is CallIntent
        else OUTCOME
        if kind is CallOutcome
        else {"kind": kind_of_class(kind), "v": 1, "id": CALL, "at_us": 1}
    )
    fields = [field.encode_name for field in msgspec.structs.fields(kind)]
    facts = {**data.draw(st.dictionaries(st.sampled_from(fields), anything)), **base}
    admitted = admit(facts)
    if admitted is None:
        assert kind not in {CallIntent, CallOutcome}
        return
    text = encode(admitted)
    assert len(text) <= MAX_ENTRY_BYTES
    assert b"sk-or" not in text
    msgspec.json.decode(text, type=kind)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provider", "Open\nAI"),
        ("cost", 0.5),
        ("prompt_tokens", -1),
        ("prompt_tokens", 2**53),
        ("prompt_tokens", 2**70),
        ("error_code", "x" * 65),
        ("generation_id", "sk-or-v1-abc"),
        ("model", "\ud800"),
        ("error_source", "elsewhere"),
        ("is_byok", "yes"),
    ],
)
def test_a_value_outside_its_vocabulary_is_left_out_and_named(field, value):
    admitted = admit({**OUTCOME, field: value})

    assert admitted is not None
    assert getattr(admitted, field) is None
    assert (field,) == admitted.anomalies


def test_a_list_keeps_the_members_that_are_allowed():
    admitted = admit({**INTENT, "tools": ["search", "two words", "add"], "models": [f"m{n}" for n in range(40)]})

    assert isinstance(admitted, CallIntent)
    assert ("search", "add") == admitted.tools
    assert 16 == len(admitted.models)
    assert {"tools", "models"} == set(admitted.anomalies)


def test_a_strange_member_of_an_inner_object_costs_itself_alone():
    admitted = admit({**INTENT, "provider": {"order": ["A", "B\x00"], "zdr": True, "sort": 5}})

    assert isinstance(admitted, CallIntent)
    assert admitted.provider is not None
    assert (("A",), True, None) == (admitted.provider.order, admitted.provider.zdr, admitted.provider.sort)
    assert {"provider.order", "provider.sort"} == set(admitted.anomalies)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"kind": "call.unheard_of"},
        {"kind": ["call.intent"]},
        {**INTENT, "id": "short"},
        {**INTENT, "at_us": "now"},
        {name: value for name, value in INTENT.items() if name != "group"},
        {**OUTCOME, "status": "fine"},
        {**OUTCOME, "v": 2},
    ],
)
def test_without_a_necessity_there_is_no_entry(facts):
    assert admit(facts) is None


@given(st.dictionaries(st.sampled_from(["user", "tags", "commitment_key", "pid", "session"]), anything))
def test_a_private_part_keeps_what_has_its_type(raw):
    private = admit_private({**raw, "tenant": "acme"})

    assert "acme" == private.tenant
    assert all(isinstance(value, str) for pair in private.tags.items() for value in pair)
    assert private.user is None or isinstance(private.user, str)
