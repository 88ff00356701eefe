"""One walk for every shape: what is in a body is found wherever it stands, and what is no secret stays as it was."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.redaction.pieces import HEX, JWT, KEYS, encoded_forms
from tests.core.redaction.shapes import PICTURE, SHAPES, canaries, secret_of

from openrouter_audit.core.redaction import Policy, redact_json


def walked(value, **kw):
    return json.loads(redact_json(json.dumps(value).encode(), **kw).body)


def every_form(value):
    return [value, *encoded_forms(value)]


def test_a_thousand_canaries_in_every_shape_leave_nothing():
    """As text, and as base64, hex, UTF-16 and JSON escapes: in nothing of what may be kept, findings included."""
    shapes = list(SHAPES.items())
    for number, canary in enumerate(canaries(1_000)):
        for name, shape in (shapes[number % len(shapes)], shapes[(number * 7 + 3) % len(shapes)]):
            done = redact_json(json.dumps(shape(canary)).encode(), commit=lambda data: f"c:{len(data)}")
            kept = done.body.decode() + repr(done.findings)
            left = [form for form in every_form(secret_of(canary)) if form in kept]
            assert not left, (name, canary)
            json.loads(done.body)


def test_encoded_canaries_that_stand_in_text_leave_nothing():
    for number, canary in enumerate(canaries(200)):
        for form in encoded_forms(canary)[:-2]:
            body = json.dumps({"messages": [{"content": f"decode {form} please, number {number}"}]}).encode()
            kept = redact_json(body).body.decode()
            assert form not in kept, (canary, form)
            assert "please" in kept


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_objects_are_walked_as_their_text_is(shape):
    value = shape("jane.doe@example.com")
    done = redact_json(value)

    assert json.loads(redact_json(json.dumps(value).encode()).body) == done.body
    assert done.findings
    assert redact_json(done.body).body == done.body
    assert "jane" not in json.dumps(done.body)


def test_what_is_no_secret_stays_to_the_byte():
    """Digits, order, members of one name, spaces inside strings of JSON, half characters."""
    body = b'{"a":1.10,"b":1e-7000,"c":123456789012345678901234567890,"a":true,"d":[null,-0.0],"e":"{ \\"x\\": 1 }","f":"\\ud800","g":"\xc3\xa9"}'

    assert body == redact_json(body).body


def test_examples_of_the_wire_stay_what_they_are():
    """A chat request without anybody in it keeps model, tools and parameters."""
    value = {"model": "openai/gpt-4.1-mini:free", "temperature": 0.7, "seed": 1234567890, "tools": [{"type": "function", "function": {"name": "get_weather"}}],
             "usage": {"prompt_tokens": 12345678, "cost": 0.00012345678}, "id": "gen-1732441200-AbCdEfGhIjKlMnOpQrSt", "created": 1732441200}  # fmt: skip

    assert value == walked(value)


def test_media_become_type_size_and_commitment():
    seen = []

    def commit(data):
        seen.append(data)
        return "hmac-sha256:" + "ab" * 32

    done = walked(
        {"content": [{"image_url": {"url": f"data:image/png;base64,{PICTURE}"}}, {"input_audio": {"format": "wav", "data": PICTURE}}, {"b64_json": PICTURE}]},
        commit=commit,
    )  # fmt: skip
    tag = "hmac-sha256:" + "ab" * 32

    assert f"[MEDIA image/png 94 bytes {tag}]" == done["content"][0]["image_url"]["url"]
    assert f"[MEDIA wav 94 bytes {tag}]" == done["content"][1]["input_audio"]["data"]
    assert f"[MEDIA application/octet-stream 94 bytes {tag}]" == done["content"][2]["b64_json"]
    assert [f"data:image/png;base64,{PICTURE}".encode(), PICTURE.encode(), PICTURE.encode()] == seen
    assert done == walked(done, commit=commit)


def test_a_long_word_of_base64_is_media_in_any_field():
    value = {"new_field": base64.b64encode(bytes(752)).decode()}

    assert {"new_field": "[MEDIA application/octet-stream 752 bytes]"} == walked(value)


def test_json_inside_a_string_stays_json():
    done = walked(
        {
            "arguments": json.dumps(
                {"to": "a@b.example", "n": 1.50, "card": 4111111111111111, "inner": json.dumps({"phone": 2125550187})}
            )
        }
    )
    inner = json.loads(done["arguments"])

    assert ("[EMAIL]", "[CARD]") == (inner["to"], inner["card"])
    assert {"phone": "[PHONE]"} == json.loads(inner["inner"])


def test_a_name_announces_its_value():
    value = {
        "phone_number": "2125550187",
        "mobilePhone": 2125550187,
        "ssn": 123456789,
        "order": "2125550187",
        "x-api-key": HEX,
        "Authorization": f"Basic {HEX}",
    }

    assert {
        "phone_number": "[PHONE]",
        "mobilePhone": "[PHONE]",
        "ssn": "[SSN]",
        "order": "2125550187",
        "x-api-key": "[CREDENTIAL]",
        "Authorization": "Basic [CREDENTIAL]",
    } == walked(value)


def test_a_body_that_is_no_json_is_taken_as_text():
    assert b"upstream said [EMAIL]\n" == redact_json(b"upstream said a@b.example\n").body
    assert b'{"a": "[EMAIL]' == redact_json(b'{"a": "a\\u0040b.example').body
    assert b"\xff\xfe [EMAIL]" == redact_json(b"\xff\xfe a@b.example").body


def test_an_event_stream_is_walked_after_it_was_put_together():
    """A key split over two deltas is in neither event; without a function that assembles, nothing is kept."""
    half = KEYS["openrouter"]
    stream = f": hi\n\ndata: {json.dumps({'d': half[:20]})}\n\ndata: {json.dumps({'d': half[20:]})}\n\ndata: [DONE]\n\n".encode()

    def assemble(body):
        events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
        return {"content": "".join(json.loads(event)["d"] for event in events), "cost": 0.5}

    def broken(body):
        raise KeyError("d")

    assert b'{"content":"[API_KEY]","cost":0.5}' == redact_json(stream, assemble=assemble).body
    assert b"[WITHHELD]" == redact_json(stream).body
    assert b"[WITHHELD]" == redact_json(stream, assemble=broken).body
    assert {"WITHHELD": 1} == redact_json(stream).counts


@pytest.mark.parametrize("depth", [150, 500, 100_000])
def test_depth_hides_nothing(depth):
    nested = b'{"a":' * depth + b'"a@b.example"' + b"}" * depth

    assert b"a@b.example" not in redact_json(nested).body
    value = "a@b.example"
    for _ in range(min(depth, 5_000)):
        value = [value]
    redact_json(value)
    inside = "a@b.example"
    for _ in range(12):
        inside = json.dumps([inside])
    assert "a@b" not in json.dumps(redact_json({"arguments": inside}).body)


def test_findings_have_a_path_without_anybody_in_it():
    done = redact_json({"messages": [{"content": "hi a@b.example"}], "metadata": {"jane@example.com": f"token {JWT}"}})

    assert {("EMAIL", "messages[0].content"), ("EMAIL", "metadata{name}"), ("JWT", "metadata.[EMAIL]")} == {
        (each.kind, each.path) for each in done.findings
    }
    assert {"EMAIL": 2, "JWT": 1} == done.counts


def test_equal_values_have_equal_numbers_over_a_body():
    done = redact_json({"a": "x@y.example", "b": ["z@y.example", "x@y.example"]}, Policy(numbered=True))

    assert {"a": "[EMAIL_1]", "b": ["[EMAIL_2]", "[EMAIL_1]"]} == done.body


def test_people_in_named_fields_have_numbers_too():
    done = redact_json(
        {"user": "jane", "session": {"user_id": "jane", "safety_identifier": "joe"}}, Policy(numbered=True)
    )

    assert {
        "user": "[USER_ID_1]",
        "session": {"user_id": "[USER_ID_1]", "safety_identifier": "[USER_ID_2]"},
    } == done.body


def test_bytes_within_an_object_are_text_as_far_as_they_are_any():
    assert {"a": "\ufffd [EMAIL]", "b": "plain"} == redact_json(
        {"a": b"\xff a@b.example", "b": bytearray(b"plain")}
    ).body


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["a@b.example", "212-555-0187", HEX, '{"a": "b@c.example"}']),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(value=JSON, data=st.binary(max_size=60))
def test_any_body_passes_and_twice_is_once(value, data):
    for body in (json.dumps(value).encode(), data, json.dumps(value).encode()[: len(data)], value):
        done = redact_json(body)
        again = redact_json(done.body)
        if {"WITHHELD"} & done.counts.keys():
            continue
        assert repr(done.body) == repr(again.body)


def test_every_recorded_answer_passes():
    """Those that come with the tests of the wire: what was JSON is JSON afterwards."""
    folder = Path(__file__).parents[2] / "data"
    for path in folder.rglob("*.json"):
        json.loads(redact_json(path.read_bytes()).body)
