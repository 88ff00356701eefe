"""
The first part asks the emulator over a socket, a row of the seed's error table at a time, with a clock turned by hand; the
second runs the enricher's own thread in real time.
"""

import dataclasses
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections import Counter

import pytest
from tests.enrichment.fakes import (
    COMMITMENT_KEY,
    EXAMPLES,
    HOUR_US,
    KEY,
    OTHER_KEY,
    MemoryRecorder,
    ScriptedServer,
    TurnedClock,
    a_call,
    charge,
    hash_of,
    just_ended,
    run_steps,
)

from openrouter_audit.core.commitments import commit, derive_keys
from openrouter_audit.core.entries import CallIntent, CallOutcome, Private
from openrouter_audit.enrichment.enricher import Enricher
from openrouter_audit.enrichment.generations import Found, GenerationClient, NotYet, read_answer
from openrouter_audit.enrichment.pending import generation_begun, pending_cost
from openrouter_audit.errors import AuditUnavailable
from openrouter_audit.testing import FakeOpenRouter


@pytest.fixture(scope="module")
def fake():
    with FakeOpenRouter(seed=5) as running:
        yield running


class Counting(GenerationClient):
    """A real client that writes down what it was asked and what it heard."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.heard = []

    def ask(self, base_url, generation_id, key):
        self.asked.append(generation_id)
        answer = super().ask(base_url, generation_id, key)
        self.heard.append(answer)
        return answer


class Desk:
    """An enricher that is driven by hand, and all that stands around it."""

    def __init__(self, **options):
        self.clock = TurnedClock()
        self.recorder = options.pop("recorder", None) or MemoryRecorder()
        self.client = Counting()
        self.enricher = Enricher(self.recorder, client=self.client, clock=self.clock.clock(), **options)

    def run(self, *calls, **limits):
        for call in calls:
            self.enricher.take_in(call)
        run_steps(self.enricher, self.clock, **limits)
        return self.recorder.facts

    def close(self):
        self.enricher.close()
        self.client.close()


@pytest.fixture
def desk():
    made = []

    def make(**options):
        made.append(Desk(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def call_at(fake, *, n=1, key=KEY, ask_key=None, **switches):
    generation_id, cost = charge(fake, key=key, **switches)
    return a_call(generation_id, base_url=fake.url, key=ask_key or key, n=n, response_cost=cost)


# --- rows of the seed's error table ---


def test_a_record_that_comes_late_settles_its_call(fake, desk):
    """
    "Generation endpoint 404", too early: the record is there 150 ms after the call, the first questions come too soon.
    """
    made = desk()
    call = call_at(fake, record_delay_ms=150)
    made.run(call, until_us=1_500_000)
    assert [NotYet()] == made.client.heard
    assert [] == made.recorder.facts

    time.sleep(0.2)
    (cost,) = made.run()
    assert ("settled", 2, call.response_cost) == (cost.state, cost.tries, cost.total_cost)


def test_a_record_that_never_comes_is_unresolved_after_the_horizon(fake, desk):
    """
    "Generation endpoint 404", for ever: 23 questions in 24 hours, then one entry that says so; nothing is asked any more.
    """
    made = desk()
    (cost,) = made.run(call_at(fake, record="never"))

    assert ("unresolved", "not_found", 404, 23) == (cost.state, cost.reason, cost.http_status, cost.tries)
    assert None is cost.total_cost
    assert 24 * HOUR_US == made.clock.passed_us
    assert 23 == len(made.client.asked)
    assert None is made.enricher.step()


def test_the_horizon_counts_from_the_end_of_the_call(fake, desk):
    """
    A call that ended 23.5 hours ago has half an hour left.
    """
    made = desk()
    call = a_call("gen-none", base_url=fake.url, ended_us=made.clock.utc_us - int(23.5 * HOUR_US))
    made.run(call)

    assert HOUR_US // 2 == made.clock.passed_us


def test_a_cost_that_is_missing_at_first_is_asked_for_again(fake, desk):
    """
    "Missing total_cost": the record is there, its cost is null; the second question finds it. Never is it taken for zero.
    """
    made = desk()
    call = call_at(fake, record="null_cost")
    (cost,) = made.run(call)

    assert ("settled", call.response_cost, 2) == (cost.state, cost.total_cost, cost.tries)


def test_a_cost_that_stays_missing_is_unresolved_with_what_the_record_said(desk):
    """
    A record without a price still names tokens and provider.
    """
    body = b'{"data":{"id":"gen-1","total_cost":null,"provider_name":"Azure","native_tokens_prompt":7}}'
    made = desk(horizon_hours=0.01)
    with ScriptedServer((200, {}, body)) as server:
        (cost,) = made.run(a_call("gen-1", base_url=server.url))

    assert ("unresolved", "cost_missing", 200, None) == (cost.state, cost.reason, cost.http_status, cost.total_cost)
    assert ("Azure", 7) == (cost.provider, cost.prompt_tokens)
    assert commit(derive_keys(COMMITMENT_KEY).response, body).hex() == cost.answer_commitment


def test_a_wrong_key_is_stopped_and_named_by_its_hash_alone(fake, desk, caplog):
    """
    "Auth 401 on generation fetch": one entry and one warning name the hash; its other calls wait for `settle`; the right
    key's calls go on; the key itself is nowhere.
    """
    caplog.set_level(logging.DEBUG)
    made = desk()
    calls = [call_at(fake, n=n, ask_key=OTHER_KEY) for n in (1, 2, 3)]
    good = call_at(fake, n=4)
    made.run(*calls, good)
    made.run(calls[1])

    wrong, right = sorted(made.recorder.costs, key=lambda cost: cost.state, reverse=True)
    assert ("unresolved", "unauthorized", 401, hash_of(OTHER_KEY)) == (
        wrong.state,
        wrong.reason,
        wrong.http_status,
        wrong.key_hash,
    )
    assert ("settled", good.call_id) == (right.state, right.id)
    assert 2 == len(made.client.asked)
    state = made.enricher.state()
    assert ((hash_of(OTHER_KEY),), 3) == (state.stopped_keys, state.left)
    assert 1 == sum(hash_of(OTHER_KEY) in record.getMessage() for record in caplog.records)
    everything = caplog.text + repr(calls) + repr(made.recorder.facts) + repr(state) + repr(vars(made.enricher))
    assert OTHER_KEY[9:] not in everything
    assert KEY[9:] not in everything


@pytest.mark.parametrize(
    ("source", "status", "begun"),
    [("body", 200, True), ("header", 200, True), ("header", 429, False), ("header", None, False), (None, 200, False)],
)
def test_a_call_that_was_refused_before_a_generation_began_is_not_asked_for(source, status, begun):
    """
    An error answer can carry an id in its headers that never resolves.
    """
    intent = CallIntent(
        v=1, id="1" * 32, at_us=1, group="2" * 32, attempt=1, endpoint="chat", method="POST", key_hash=hash_of(KEY)
    )
    outcome = CallOutcome(
        v=1,
        id="1" * 32,
        at_us=5,
        status="success" if begun else "error",
        complete=True,
        http_status=status,
        generation_id=source and "gen-1",
        generation_source=source,
        cost="1e-7",
    )
    assert begun == generation_begun(outcome)
    made = pending_cost(
        intent, outcome, Private(commitment_key=COMMITMENT_KEY), base_url="http://h/api/v1", api_key=KEY
    )
    if begun:
        assert a_call("gen-1", base_url="http://h/api/v1", call_id="1" * 32, response_cost="1e-7", ended_us=5) == made
        assert None is pending_cost(intent, outcome, None, base_url=None)
    else:
        assert None is made


# --- what else can happen on the way ---


def test_trouble_in_between_only_delays(fake, desk):
    """
    500, 429 and 524 before the record: the call is settled by the fourth question.
    """
    made = desk()
    call = call_at(fake, generation_status="500x1,429x1,524x1")
    made.run(call)

    assert [500, "Throttled", 524, "Found"] == [
        getattr(answer, "http_status", None) or type(answer).__name__ for answer in made.client.heard
    ]
    assert ("settled", 4) == (made.recorder.costs[0].state, made.recorder.costs[0].tries)


def test_retry_after_is_honoured_for_that_key_alone(desk):
    """
    120 seconds are asked for: the key's two calls wait so long, the other key's call does not.
    """
    made = desk()
    body = b'{"data":{"id":"gen-1","total_cost":1e-7}}'
    with ScriptedServer((429, {"Retry-After": "120"}, b""), (200, {}, body)) as server:
        calls = [a_call("gen-1", base_url=server.url, n=n, key=key) for n, key in ((1, KEY), (2, KEY), (3, OTHER_KEY))]
        made.run(*calls, until_us=119_000_000)
        assert [f"{3:032x}"] == [cost.id for cost in made.recorder.costs]
        made.run()

    assert 3 == len(made.recorder.costs)
    assert 121_000_000 <= made.clock.passed_us < 123_000_000


def test_another_record_than_the_one_asked_for_is_never_accepted(fake, desk):
    """
    Its price may be right or wrong, nobody knows whose it is: asked again, and unresolved at the end.
    """
    made = desk(horizon_hours=1)
    (cost,) = made.run(call_at(fake, record="other_id"))

    assert ("unresolved", "id_mismatch", 200, None) == (cost.state, cost.reason, cost.http_status, cost.total_cost)


@pytest.mark.parametrize("digits", ["1e-7", "0.0076509169000000005", "0.00046869999999999995", "0"])
def test_a_cost_reaches_the_entry_digit_for_digit(fake, desk, digits):
    """
    From the wire to the entry no digit is lost, and none is made up.
    """
    told = []
    made = desk(on_cost=lambda *args: told.append(args))
    call = call_at(fake, cost=digits)
    (cost,) = made.run(call)

    assert digits == cost.total_cost == call.response_cost
    assert [(call.call_id, digits)] == told


def test_equal_amounts_in_other_digits_raise_no_alert(desk):
    """
    The answer said 0.0000001, the record says 1e-7.
    """
    made = desk()
    with ScriptedServer((200, {}, b'{"data":{"id":"gen-1","total_cost":1e-7}}')) as server:
        made.run(a_call("gen-1", base_url=server.url, response_cost="0.0000001"))

    assert ("1e-7", []) == (made.recorder.costs[0].total_cost, made.recorder.alerts)


def test_a_difference_makes_one_alert_with_both_figures(fake, desk):
    """
    OpenRouter's answer and its record differ by a tenth: the record counts, and somebody should look.
    """
    made = desk()
    call = call_at(fake, record="other_cost", cost="0.001")
    cost, alert = made.run(call)

    assert ("0.0011", "cost_mismatch", call.call_id, "0.001", "0.0011") == (
        cost.total_cost,
        alert.rule,
        alert.call,
        alert.expected,
        alert.observed,
    )
    assert 32 == len(alert.id)
    assert alert.id != call.call_id
    assert 1 == made.enricher.state().mismatched


def test_a_byok_record_fills_its_fields(fake, desk):
    """
    The fee is the cost; the provider's own bill stands beside it and is added nowhere.
    """
    made = desk()
    call = call_at(fake, byok="fee")
    (cost,) = made.run(call)

    assert (True, call.response_cost) == (cost.is_byok, cost.total_cost)
    assert float(cost.upstream_cost) > float(cost.total_cost) > 0


@pytest.mark.parametrize("record", ["nulls", "absent", "unknown"])
def test_a_record_with_little_or_strange_in_it_still_settles(fake, desk, record):
    """
    Every nullable field null, optional ones missing, new ones present.
    """
    made = desk()
    call = call_at(fake, record=record)
    (cost,) = made.run(call)

    assert ("settled", call.response_cost) == (cost.state, cost.total_cost)


def test_an_answer_can_be_proven_later_from_its_bytes():
    """
    The commitment is over the bytes as they came, under the call's response key; without the key there is none.
    """
    raw = (EXAMPLES / "generation" / "chat.json").read_bytes()
    generation_id = "gen-1795424400-WK59PFkl0JfI2yyVlbPe"
    for key, expected in (
        (COMMITMENT_KEY, commit(derive_keys(COMMITMENT_KEY).response, raw).hex()),
        (None, None),
        (b"short", None),
    ):
        recorder = MemoryRecorder()

        class Client:
            def ask(self, *_):
                return read_answer(raw, generation_id)

            def close(self):
                pass

        clock = TurnedClock()
        enricher = Enricher(recorder, client=Client(), clock=clock.clock())
        enricher.take_in(a_call(generation_id, commitment_key=key))
        run_steps(enricher, clock)
        assert expected == recorder.costs[0].answer_commitment


def test_one_question_a_key_at_a_time_and_no_more_than_five_a_second(fake, desk):
    """
    Sixty calls of two keys: by the turned clock, no key is asked six times within a second.
    """
    made = desk()
    at_us = {}

    class Timed(Counting):
        def ask(self, base_url, generation_id, key):
            at_us.setdefault(key, []).append(made.clock.passed_us)
            return super().ask(base_url, generation_id, key)

    made.enricher._client = made.client = Timed()
    made.run(*(call_at(fake, n=n, key=(KEY, OTHER_KEY)[n % 2]) for n in range(60)))

    assert 60 == len(made.recorder.costs)
    for times in at_us.values():
        assert 30 == len(times)
        assert all(later - sooner >= 1_000_000 for sooner, later in zip(times, times[5:], strict=False))
    assert 1_000_000 + 29 * 200_000 == made.clock.passed_us


@pytest.mark.parametrize("keep_refused", [False, True], ids=["lost", "kept though it failed"])
def test_a_cost_the_spool_does_not_take_is_written_later(fake, desk, keep_refused):
    """
    The spool is full twice, then has room. Kept though it failed means two equal entries, which is legal: the last counts.
    """
    made = desk(recorder=MemoryRecorder(refuse=2, keep_refused=keep_refused))
    call = call_at(fake)
    made.run(call)

    assert {call.response_cost} == {cost.total_cost for cost in made.recorder.costs}
    assert (3 if keep_refused else 1) == len(made.recorder.costs)
    assert (1, 0) == (made.enricher.state().settled, made.enricher.state().waiting)


def test_scope_missing_asks_only_where_the_answer_named_no_cost(fake):
    """
    C7: `missing` saves the questions whose answer is known; `off` asks none and starts no thread.
    """
    calls = [call_at(fake, n=1), a_call(call_at(fake).generation_id, base_url=fake.url, n=2)]
    for scope, expected in (("missing", [calls[1].call_id]), ("off", [])):
        recorder = MemoryRecorder()
        enricher = Enricher(recorder, scope=scope)
        for call in calls:
            enricher.offer(call)
        recorder.wait_for(len(expected))
        threads = [thread for thread in threading.enumerate() if thread is enricher._shift.thread]
        enricher.close()
        assert expected == [cost.id for cost in recorder.costs]
        assert bool(expected) == bool(threads)


def test_a_key_goes_to_no_address_that_is_not_watched(desk):
    """
    A base URL out of an old vault whose host is watched no longer is not asked (C7).
    """
    with ScriptedServer((200, {}, b"{}")) as server:
        made = desk(watches=lambda base_url: "openrouter.ai" in base_url)
        made.run(a_call(base_url=server.url), a_call(api_key=None))
        result = made.enricher.settle_now([a_call(base_url=server.url)], [KEY])

        assert [] == server.requests
    assert 2 == made.enricher.state().left
    assert 1 == result.left


# --- the thread, in real time ---


def wait_until(true, seconds=20.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "never came true"
        time.sleep(0.005)


def test_offered_calls_are_settled_in_the_background(fake):
    """
    Four threads offer; one thread asks; each call has its cost once.
    """
    recorder = MemoryRecorder()
    enricher = Enricher(recorder, max_per_second=10_000)
    calls = [call_at(fake, n=n) for n in range(40)]
    threads = [
        threading.Thread(target=lambda part=calls[i::4]: [enricher.offer(call) for call in part]) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.wait_for(40)
    enricher.close()

    assert {call.call_id: 1 for call in calls} == Counter(cost.id for cost in recorder.costs)
    assert not enricher._shift.thread.is_alive()
    assert 40 == enricher.state().settled


def test_an_unreachable_host_never_makes_offer_wait():
    """
    The server takes the connection and says nothing; ten thousand offers go by in the meantime, and close does not wait.
    """
    recorder = MemoryRecorder()
    with ScriptedServer("hang") as server:
        enricher = Enricher(recorder)
        enricher.offer(just_ended(base_url=server.url))
        assert server.hanging.wait(20)
        begin = time.thread_time()
        for n in range(10_000):
            enricher.offer(just_ended(base_url=server.url, n=n))
        assert time.thread_time() - begin < 5
        assert enricher._shift.thread.is_alive()
        assert 10_000 == enricher.state().waiting
        begin = time.monotonic()
        enricher.close()
        assert time.monotonic() - begin < 5
        thread = enricher._shift.thread
    thread.join(20)

    assert not thread.is_alive()
    assert [] == recorder.facts


def test_nothing_is_written_once_close_has_returned():
    """
    The answer to a question on its way comes after `close`: it ends unheard.
    """
    recorder = MemoryRecorder()
    asked, go_on = threading.Event(), threading.Event()

    class Slow:
        closed = False

        def ask(self, *_):
            asked.set()
            go_on.wait(20)
            return read_answer(b'{"data":{"id":"gen-1","total_cost":1}}', "gen-1")

        def close(self):
            self.closed = True

    slow = Slow()
    enricher = Enricher(recorder, client=slow)
    enricher.offer(just_ended("gen-1"))
    assert asked.wait(20)
    enricher.close()
    go_on.set()
    enricher._shift.thread.join(20)
    enricher.offer(just_ended("gen-2"))

    assert [] == recorder.facts
    assert slow.closed
    assert not enricher._shift.thread.is_alive()


def test_close_while_waiting_ends_the_thread():
    """
    The next question is an hour away; close does not wait for it, and a second close is nothing.
    """
    enricher = Enricher(MemoryRecorder(), client=Counting())
    with ScriptedServer((429, {"Retry-After": "3600"}, b"")) as server:
        enricher.offer(just_ended(base_url=server.url))
        wait_until(lambda: enricher.state().asked)
    enricher.close(timeout=20)
    enricher.close()

    assert not enricher._shift.thread.is_alive()


def test_a_fault_of_ours_does_not_end_the_thread(fake, caplog):
    """
    A client that breaks its promise and raises: logged by its class alone, and the next key's call is settled.
    """

    class Broken(Counting):
        def ask(self, base_url, generation_id, key):
            if key == OTHER_KEY:
                raise ValueError(f"Bearer {key}")
            return super().ask(base_url, generation_id, key)

    recorder, client = MemoryRecorder(), Broken()
    enricher = Enricher(recorder, client=client, max_per_second=10_000)
    enricher.offer(call_at(fake, n=1, key=OTHER_KEY))
    wait_until(lambda: enricher.state().asked)
    enricher.offer(call_at(fake, n=2))
    recorder.wait_for(1)
    enricher.close(timeout=20)

    assert [f"{2:032x}"] == [cost.id for cost in recorder.costs]
    assert "ValueError" in caplog.text
    assert OTHER_KEY[9:] not in caplog.text


def test_a_call_offered_by_garbage_collection_is_taken():
    """
    A stream that nobody closed ends in a finalizer, which may run in the midst of anything, the enricher's queue included.
    """
    recorder = MemoryRecorder()
    answers = {}

    class Client:
        def ask(self, base_url, generation_id, key):
            for _ in range(3):
                cycle = [Abandoned()]
                cycle.append(cycle)
            return read_answer(b'{"data":{"id":"%s","total_cost":1}}' % generation_id.encode(), generation_id)

        def close(self):
            pass

    class Abandoned:
        def __init__(self):
            number = len(answers) + 2
            answers[number] = True
            if number < 200:
                weakref.finalize(self, enricher.offer, just_ended("gen-1", n=number))

    enricher = Enricher(recorder, client=Client(), max_per_second=100_000)
    before = gc.get_threshold()
    gc.freeze()  # collections this frequent are only quick while they look at what is made from here on
    gc.set_threshold(5, 2, 2)
    try:
        enricher.offer(just_ended("gen-1", n=1))
        recorder.wait_for(100)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        enricher.close(timeout=20)


def test_a_forked_child_begins_with_nothing_and_settles_its_own(fake, tmp_path):
    """
    The parent's waiting calls stay the parent's; the child has no thread until it offers a call, and then one of its own.
    """
    script = tmp_path / "forks.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path[:0] = {[os.getcwd()]!r}
        from tests.enrichment.fakes import *
        from openrouter_audit.enrichment.enricher import Enricher
        url, parents, childs = sys.argv[1:]
        recorder = MemoryRecorder()
        enricher = Enricher(recorder, max_per_second=1000)
        enricher.offer(just_ended(parents, base_url=url, n=1))
        recorder.wait_for(1)
        with ScriptedServer("hang") as server:
            enricher.offer(just_ended("gen-x", base_url=server.url, n=2))
            assert server.hanging.wait(20)
            enricher.offer(just_ended(parents, base_url=url, n=3))
            pid = os.fork()
            if pid == 0:
                try:
                    recorder.facts.clear()
                    state = enricher.state()
                    assert (0, 0) == (state.waiting, state.asked), state
                    assert enricher._shift.thread is None
                    enricher.offer(just_ended(childs, base_url=url, n=4))
                    recorder.wait_for(1)
                    assert [f"{{4:032x}}"] == [cost.id for cost in recorder.costs]
                    enricher.close()
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            assert 0 == os.waitpid(pid, 0)[1]
            assert [f"{{1:032x}}"] == [cost.id for cost in recorder.costs]
        enricher.close()
        print("both")
        """)
    )
    arguments = [fake.url, charge(fake)[0], charge(fake)[0]]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ("both\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_the_end_of_the_interpreter_waits_for_nothing_and_asks_nothing(tmp_path):
    """
    A program ends with a question on its way and others waiting: it ends at once, and nothing was asked beside that one.
    """
    script = tmp_path / "ends.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[os.getcwd()]!r}
        from tests.enrichment.fakes import *
        from openrouter_audit.enrichment.enricher import Enricher
        enricher = Enricher(MemoryRecorder(), max_per_second=1000)
        for n in range(5):
            enricher.offer(just_ended("gen-x", base_url=sys.argv[1], n=n))
        sys.stdin.readline()
        """)
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        ScriptedServer("hang") as server,
        subprocess.Popen([sys.executable, "-W", "error", str(script), server.url], **pipes) as program,
    ):
        try:
            assert server.hanging.wait(30)
            said = program.communicate(b"end\n", timeout=30)
        finally:
            program.kill()
        assert ((b"", b""), 0) == (said, program.returncode)
        assert 1 == len(server.requests)


def test_an_enricher_is_found_by_nobody_once_let_go():
    """
    What a fork must reset is kept weakly: an enricher without a thread disappears with its owner.
    """
    enricher = Enricher(MemoryRecorder())
    gone = weakref.ref(enricher)
    del enricher
    gc.collect()

    assert None is gone()


# --- settle ---


def test_settle_now_asks_whatever_the_back_off_and_counts_each_call_once(fake, desk):
    """
    Keys come from outside and are matched by hash; a refused key is asked once; too young is told from too old.
    """
    made = desk()
    made.clock.utc_us = made.clock.begin_us + 10 * HOUR_US
    third = "sk-or-v1-" + "00ff00ff" * 8
    young = made.clock.utc_us - HOUR_US
    calls = [
        call_at(fake, n=1),
        call_at(fake, n=2, record="null_cost"),
        call_at(fake, n=3, record="other_cost"),
        a_call("gen-young", base_url=fake.url, n=4, ended_us=young),
        a_call("gen-old", base_url=fake.url, n=5, ended_us=young - 24 * HOUR_US),
        a_call("gen-old", base_url=fake.url, n=6, ended_us=young - 24 * HOUR_US, unresolved_before=True),
        a_call("gen-nokey", base_url=fake.url, n=7, key="another"),
        call_at(fake, n=8, ask_key=OTHER_KEY),
        call_at(fake, n=9, ask_key=OTHER_KEY),
    ]
    seen = []
    result = made.enricher.settle_now(
        [dataclasses.replace(call, api_key=None) for call in calls],
        [KEY, OTHER_KEY, third, ""],
        progress=lambda done, total: seen.append((done, total)),
    )

    assert (3, 3, 1, 1, 1) == (result.settled, result.unresolved, result.not_yet, result.no_key, result.left)
    assert (1, (hash_of(OTHER_KEY),), 8) == (result.mismatched, result.refused_keys, result.asked)
    assert [(1, "settled"), (2, "settled"), (3, "settled"), (5, "unresolved"), (8, "unresolved")] == sorted(
        (int(cost.id, 16), cost.state) for cost in made.recorder.costs
    )
    assert ((1, 9), (9, 9)) == (seen[0], seen[-1])
    assert sorted(seen) == seen


def test_settle_now_keeps_the_distance_between_questions_and_does_not_wait_for_ever(desk):
    """
    Five a second; a server that stays unwell is left alone after three questions, one that asks for an hour after one.
    """
    made = desk()
    for answer, asked in (
        ((503, {}, b""), 3),
        ((429, {"Retry-After": "3600"}, b""), 1),
        ((429, {"Retry-After": "2"}, b""), 3),
    ):
        with ScriptedServer(answer) as server:
            result = made.enricher.settle_now([a_call(base_url=server.url, n=n) for n in range(50)], [KEY])
        assert (50, asked) == (result.left, result.asked)
    assert [] == made.recorder.facts

    made.clock.sleeps.clear()
    with ScriptedServer((200, {}, b'{"data":{"id":"gen-1","total_cost":1}}')) as server:
        result = made.enricher.settle_now([a_call("gen-1", base_url=server.url, n=n) for n in range(11)])
    assert 11 == result.settled
    assert [200_000] * 10 == made.clock.sleeps


def test_settle_now_says_so_when_nothing_can_be_written(fake, desk):
    """
    A command is to fail loudly where the background thread would wait.
    """
    made = desk(recorder=MemoryRecorder(refuse=1))
    with pytest.raises(AuditUnavailable):
        made.enricher.settle_now([call_at(fake)])
    assert [] == made.recorder.facts
    assert isinstance(made.client.heard[0], Found)
