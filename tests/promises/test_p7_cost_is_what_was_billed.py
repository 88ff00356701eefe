"""
P7: "Cost is what was billed, with its source. Decimal text, never float; unknown is null, never 0; BYOK fee and upstream bill
apart."
"""
# ruff: noqa: UP031 - JSON is full of braces

import json
import time
from urllib.parse import parse_qs, urlsplit

import openai
import pytest
from tests.journal.homes import KEY, check_log, of_kind
from tests.promises.servers import RawServer, whole

from openrouter_audit import AuditLog
from openrouter_audit.reports.tables.sqlite import SqliteReports

USAGE = {
    "small": '"cost":1e-7',
    "long": '"cost":0.0076509169000000005',
    "none": '"cost":null',
    "byok": '"cost":0.0000021,"is_byok":true,"cost_details":{"upstream_inference_cost":0.000042}',
}
BILLED = {"small": "1e-7", "long": "0.0076509169000000005", "byok": "0.0000021"}


def answer(head, body):
    path = head.split(b" ")[1].decode()
    if "/generation" in path:
        name = parse_qs(urlsplit(path).query)["id"][0].removeprefix("gen-")
        if name == "none":
            yield whole('{"error":{"code":404,"message":"not found"}}', status="404 Not Found")
        else:
            upstream = "0.000042" if name == "byok" else "null"
            yield whole(
                '{"data":{"id":"gen-%s","total_cost":%s,"upstream_inference_cost":%s,"model":"m","is_byok":%s}}'
                % (name, BILLED[name], upstream, "true" if name == "byok" else "false")
            )
        return
    name = json.loads(body)["messages"][0]["content"]
    yield whole(
        '{"id":"gen-%s","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
        '"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,'
        '"total_tokens":2,%s}}' % (name, USAGE[name])
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Report rows and entries by the name of the answer, once three of the four are settled."""
    with pytest.MonkeyPatch.context() as patch, RawServer(answer) as server:
        patch.setenv("OPENROUTER_AUDIT_ENRICH_MAX_PER_SECOND", "100")
        audit = AuditLog.open(tmp_path_factory.mktemp("cost") / "home", hosts=["127.0.0.1"])
        with audit.httpx2_client() as client:
            sdk = openai.OpenAI(base_url=server.url, api_key=KEY, http_client=client)
            for name in USAGE:
                sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": name}])
        deadline = time.monotonic() + 20
        while True:
            audit.flush()
            entries = check_log(audit.home)
            if 3 <= len(of_kind(entries, "call.cost")) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        with SqliteReports.open(audit.home.reports_path, read_only=True) as reports:
            found = reports.rows_of([intent["id"] for intent in of_kind(entries, "call.intent")])
        audit.close()
    return {row["generation_id"].removeprefix("gen-"): row for row in found}, entries


@pytest.mark.parametrize("name", ["small", "long"])
def test_the_digits_that_were_sent_are_those_in_journal_and_reports(rows, name):
    table, entries = rows
    texts = [
        entry.get("cost") or entry.get("total_cost") for entry in entries if entry.get("generation_id") == f"gen-{name}"
    ]

    assert [BILLED[name]] * 2 == texts
    row = table[name]
    assert (BILLED[name],) * 3 == (row["total_cost"], row["response_cost"], row["generation_cost"])
    assert ("settled", "generation") == (row["cost_state"], row["cost_source"])


def test_an_unknown_cost_is_null_and_not_zero(rows):
    row = rows[0]["none"]

    assert row["total_cost"] is None
    assert (None, "provisional") == (row["cost_source"], row["cost_state"])


def test_a_byok_fee_and_the_providers_bill_stand_apart(rows):
    row = rows[0]["byok"]

    assert ("0.0000021", "0.000042") == (row["total_cost"], row["upstream_cost"])
    assert row["is_byok"]


def test_no_entry_holds_a_number_with_a_fraction(rows):
    def numbers(value):
        if isinstance(value, dict):
            return [each for member in value.values() for each in numbers(member)]
        if isinstance(value, list):
            return [each for member in value for each in numbers(member)]
        return [value] if isinstance(value, float) else []

    assert [] == numbers(rows[1])
