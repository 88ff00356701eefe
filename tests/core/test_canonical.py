import json

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from openrouter_audit.core import canonical
from openrouter_audit.errors import CanonicalError

integers = st.integers(-(2**53) + 1, 2**53 - 1)
ascii_keys = st.text(st.characters(max_codepoint=127))
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(ascii_keys, inner),
    max_leaves=20,
)


@given(values)
def test_bytes_are_those_of_an_independent_implementation(value):
    data = canonical.encode(value)
    assert rfc8785.dumps(value) == data
    canonical.check(value)
    assert value == canonical.decode(data)


@given(st.dictionaries(ascii_keys, values))
def test_order_and_spelling_of_json_make_no_difference_to_what_is_read(value):
    spread = json.dumps(dict(reversed(value.items())), indent=1, ensure_ascii=True).encode()
    assert value == canonical.decode(spread)


class Inner(msgspec.Struct, tag="inner", tag_field="kind", omit_defaults=True):
    z: int
    a: str | None = None


class Outer(msgspec.Struct, rename={"last": "0"}):
    inner: Inner
    items: tuple[int, ...]
    last: dict[str, int]


def test_structs_are_written_with_sorted_fields():
    value = Outer(inner=Inner(z=1), items=(3, 2), last={"b": 1, "a": 2})
    expected = b'{"0":{"a":2,"b":1},"inner":{"kind":"inner","z":1},"items":[3,2]}'
    assert expected == canonical.encode(value) == rfc8785.dumps(msgspec.to_builtins(value))
    canonical.check(value)


@pytest.mark.parametrize(
    "value",
    [1.5, 1.0, float("nan"), 2**53, -(2**53), {"ä": 1}, {1: 1}, "\ud800", {"a": "\udfff"}, b"bytes", {1, 2}, 1j],
    ids=repr,
)
def test_value_without_canonical_form_is_refused_at_any_depth(value):
    for nested in (value, [value], {"a": [value]}):
        with pytest.raises(CanonicalError):
            canonical.check(nested)


def test_float_within_a_struct_is_refused():
    with pytest.raises(CanonicalError):
        canonical.check(Outer(inner=Inner(z=1.5), items=(), last={}))


@pytest.mark.parametrize("value", ["\ud800", {"a": 1j}, {"\ud800": 1}, {"a": 2**70, "b": 1j}], ids=repr)
def test_value_without_bytes_is_refused_by_encode(value):
    with pytest.raises(CanonicalError):
        canonical.encode(value)


def test_nesting_has_a_bound():
    deep = value = []
    for _ in range(63):
        value.append([])
        value = value[0]
    canonical.check(deep)
    assert deep == canonical.decode(canonical.encode(deep))
    value.append([])
    with pytest.raises(CanonicalError):
        canonical.check(deep)
    for data in (b"[" * 65 + b"]" * 65, b"[" * 100_000, b'{"a":' * 65 + b"1" + b"}" * 65, b'{"a":' * 100_000):
        with pytest.raises(CanonicalError):
            canonical.decode(data)


BAD_NUMBERS = [b"1.5", b"1.0", b"1e3", b"1E3", b"-0", b"9007199254740992", b"-9007199254740992", b"9" * 17, b"9" * 5000]
BAD_NUMBERS += [b"-" + b"9" * 17, b"NaN", b"Infinity", b"-Infinity", b"01", b"+1", b"0x1", b"18446744073709551616"]


@pytest.mark.parametrize("number", BAD_NUMBERS)
def test_number_that_is_not_a_small_integer_is_refused(number):
    for data in (number, b'{"a":%s}' % number, b'{"a":[1,%s]}' % number, b'{"a": %s}' % number):
        with pytest.raises(CanonicalError):
            canonical.decode(data)


def test_largest_integers_are_read():
    assert {"a": [2**53 - 1, -(2**53) + 1]} == canonical.decode(b'{"a":[9007199254740991,-9007199254740991]}')


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":{"c":1,"c":2}}',
        b'{"a":1,"\\u0061":2}',
        b'{"\xc3\xa4":1}',
        b'{"\\u00e4":1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'{"a":"\x01"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1} x',
        b'{"a":1}{"a":1}',
        b'{"a":1',
        b"",
    ],
)
def test_ambiguous_or_broken_bytes_are_refused(data):
    with pytest.raises(CanonicalError):
        canonical.decode(data)
