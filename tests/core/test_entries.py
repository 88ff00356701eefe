"""What the journal can say: closed words, bounded sizes, and schemas that strangers can hold it to."""

import importlib.resources
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from openrouter_audit.core.canonical import encode
from openrouter_audit.core.entries import KINDS, MAX_ENTRY_BYTES, CallCost, CallIntent, CallOutcome, Writer, kind_of
from openrouter_audit.core.schemas import schema_texts

CALL = "0123456789abcdef" * 2


def test_shipped_schemas_are_those_of_the_records():
    folder = importlib.resources.files("openrouter_audit.core.schemas")
    shipped = {each.name: each.read_text() for each in folder.iterdir() if each.name.endswith(".json")}

    assert shipped == schema_texts(), "run: python -m tests.core.write_schemas"
    assert len(KINDS) == len(shipped)
    for text in shipped.values():
        assert "https://json-schema.org/draft/2020-12/schema" == json.loads(text)["$schema"]


def test_schemas_are_in_the_wheel(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert set(schema_texts()) == {
        Path(name).name for name in names if "/core/schemas/" in name and name.endswith(".json")
    }


def test_an_entry_names_its_kind_and_leaves_out_what_is_not_known():
    outcome = CallOutcome(v=1, id=CALL, at_us=5, status="unknown", complete=False, writer=Writer(segment=CALL, seq=3))

    assert "call.outcome" == kind_of(outcome)
    assert json.loads(encode(outcome)) == {
        "kind": "call.outcome",
        "v": 1,
        "id": CALL,
        "at_us": 5,
        "status": "unknown",
        "complete": False,
        "writer": {"segment": CALL, "seq": 3},
    }


@pytest.mark.parametrize("money", ["1e-7", "0.0076509169000000005", "0", "-0.5", "1E+3"])
def test_money_keeps_its_digits(money):
    cost = CallCost(v=1, id=CALL, at_us=1, state="settled", total_cost=money)
    again = msgspec.json.decode(encode(cost), type=CallCost)

    assert money == again.total_cost


@pytest.mark.parametrize("money", ["", "NaN", "1.", ".5", "1,5", "0x1", "1e", "1e9999", " 1"])
def test_what_is_no_decimal_number_is_no_money(money):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(
            {"kind": "call.cost", "v": 1, "id": CALL, "at_us": 1, "state": "settled", "total_cost": money}, CallCost
        )


def test_the_fullest_intent_stays_below_the_bound():
    """
    Every list at its limit, every string at its length: still an entry.
    """
    name, provider = "m" * 128, "P" * 64
    fullest = CallIntent(
        v=1,
        id=CALL,
        at_us=2**53 - 1,
        group=CALL,
        attempt=2**53 - 1,
        endpoint="transcriptions",
        method="P" * 64,
        path="/" + "p" * 127,
        host="h" * 128,
        sdk="s" * 31 + "/" + "1" * 32,
        model=name,
        models=(name,) * 16,
        tools=("t" * 64,) * 64,
        plugins=("p" * 64,) * 16,
        provider={"order": [provider] * 16, "only": [provider] * 16, "ignore": [provider] * 16},
        anomalies=("a" * 64,) * 32,
        writer=Writer(segment=CALL, seq=2**53 - 1),
    )
    text = encode(fullest)
    msgspec.json.decode(text, type=CallIntent)

    assert len(text) < MAX_ENTRY_BYTES
