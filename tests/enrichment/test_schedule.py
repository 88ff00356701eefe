from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.enrichment.fakes import HOUR_US, KEY, OTHER_KEY, a_call, hash_of

from openrouter_audit.enrichment.schedule import (
    FIRST_ASK_US,
    LONGEST_WAIT_US,
    SECOND_US,
    Schedule,
    wait_after,
)


def a_schedule(*, horizon_us=24 * HOUR_US, max_per_second=5.0, capacity=1000):
    return Schedule(horizon_us=horizon_us, max_per_second=max_per_second, capacity=capacity)


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_waits_grow_to_hours_and_never_beyond(misses, jitter):
    """
    Two seconds after the first fruitless question, two hours after the thirteenth; jitter only adds, up to a quarter.
    """
    plain = wait_after(misses, jitter=0.0)

    assert plain <= wait_after(misses, jitter=jitter) <= plain * 1.25
    assert plain <= wait_after(misses + 1, jitter=0.0) <= LONGEST_WAIT_US
    assert (2 * SECOND_US, LONGEST_WAIT_US) == (wait_after(1, jitter=0.0), wait_after(13, jitter=0.0))


def test_a_record_that_never_comes_is_asked_for_from_one_second_on_and_a_last_time_at_the_horizon():
    """
    The observed delays (seconds, 1.3 to 5.7 minutes, 8 to 50 minutes) each have a question soon after them.
    """
    schedule = a_schedule()
    schedule.add(a_call(), now_us=0)
    asked_us = []
    while (wake_us := schedule.wake_us()) is not None:
        waiting = schedule.take(now_us=wake_us)
        asked_us.append(wake_us)
        if not schedule.missed(waiting, now_us=wake_us, jitter=0.0):
            break

    assert (FIRST_ASK_US, 24 * HOUR_US) == (asked_us[0], asked_us[-1])
    assert 24 == len(asked_us) == waiting.tries
    assert None is schedule.wake_us()
    for seen_us in (78 * SECOND_US, 342 * SECOND_US, 50 * 60 * SECOND_US):
        assert min(at for at in asked_us if at >= seen_us) <= 2 * seen_us + 4 * SECOND_US


def test_calls_without_a_price_go_first():
    """
    Nobody misses the second opinion on a known price as much as a price.
    """
    schedule = a_schedule()
    for n in range(4):
        schedule.add(a_call(n=n, response_cost=None if n % 2 else "0.5"), now_us=n)
    now_us = HOUR_US
    order = []
    for _ in range(4):
        waiting = schedule.take(now_us=now_us)
        order.append(int(waiting.call.call_id, 16))
        schedule.done(waiting)
        now_us += SECOND_US

    assert [1, 3, 0, 2] == order


def test_one_key_in_trouble_holds_up_no_other():
    """
    OpenRouter throttles one key for an hour; the other is asked at once, the first after that hour.
    """
    schedule = a_schedule()
    for n, key in enumerate((KEY, KEY, OTHER_KEY)):
        schedule.add(a_call(n=n, key=key), now_us=n)
    throttled = schedule.take(now_us=2 * SECOND_US)
    assert schedule.hindered(throttled, now_us=2 * SECOND_US, jitter=0.0, retry_after_us=HOUR_US)

    other = schedule.take(now_us=2 * SECOND_US)
    assert hash_of(OTHER_KEY) == other.call.key_hash
    schedule.done(other)
    assert None is schedule.take(now_us=2 * SECOND_US + HOUR_US - 1)
    assert 2 * SECOND_US + HOUR_US == schedule.wake_us()
    assert hash_of(KEY) == schedule.take(now_us=2 * SECOND_US + HOUR_US).call.key_hash


def test_trouble_on_the_way_does_not_make_a_call_wait_for_hours():
    """
    The network is gone for ten hours; when it is back, the call is asked for within the lane's longest pause.
    """
    schedule = a_schedule()
    schedule.add(a_call(), now_us=0)
    while schedule.wake_us() < 10 * HOUR_US:
        now_us = schedule.wake_us()
        schedule.hindered(schedule.take(now_us=now_us), now_us=now_us, jitter=0.99)

    assert schedule.wake_us() <= 10 * HOUR_US + 375 * SECOND_US


def test_a_generation_that_always_fails_does_not_hold_up_the_others_of_its_key():
    """
    One id makes the server answer 500 each time; the calls behind it are asked for all the same.
    """
    schedule = a_schedule()
    for n in range(20):
        schedule.add(a_call(n=n), now_us=0)
    settled, now_us = [], SECOND_US
    while len(settled) < 19:
        waiting = schedule.take(now_us=now_us)
        if waiting.call.call_id == f"{0:032x}":
            schedule.hindered(waiting, now_us=now_us, jitter=0.0)
        else:
            schedule.done(waiting)
            settled.append(waiting)
        now_us = schedule.wake_us()

    assert now_us < 60 * SECOND_US


def test_a_stopped_key_lets_go_of_its_calls_and_takes_no_more():
    """
    After a 401 nothing of that key is kept in memory.
    """
    schedule = a_schedule()
    for n, key in enumerate((KEY, KEY, OTHER_KEY)):
        schedule.add(a_call(n=n, key=key), now_us=0)

    assert [0, 1] == [int(call.call_id, 16) for call in schedule.stop(hash_of(KEY))]
    assert 1 == len(schedule)
    assert schedule.add(a_call(n=9), now_us=0) is not None
    assert {hash_of(KEY)} == schedule.stopped_keys
    assert hash_of(OTHER_KEY) == schedule.take(now_us=HOUR_US).call.key_hash
    assert [] == schedule.stop("never seen")


def test_when_too_many_wait_the_oldest_priced_one_leaves_first():
    """
    Memory is bounded; what leaves is left to `settle`, and a price that is known can wait best.
    """
    schedule = a_schedule(capacity=3)
    costs = [None, "0.1", None, "0.2", None, None, None]
    left = [schedule.add(a_call(n=n, response_cost=cost), now_us=0) for n, cost in enumerate(costs)]

    assert [None, None, None, 1, 3, 0, 2] == [call and int(call.call_id, 16) for call in left]
    assert 3 == len(schedule)


def test_an_overload_that_lasts_leaves_no_litter():
    """
    A hundred thousand calls pass through a schedule of ten; its heaps stay of that size.
    """
    schedule = a_schedule(capacity=10)
    for n in range(100_000):
        schedule.add(a_call(n=0, response_cost="0.1"), now_us=n)

    lane = schedule._lanes[hash_of(KEY)]
    assert 10 == len(schedule)
    assert len(lane.priced) <= 25


def test_lanes_of_keys_with_nothing_to_ask_are_forgotten():
    """
    A gateway sees many keys in its life.
    """
    schedule = a_schedule()
    for n in range(100):
        schedule.add(a_call(n=n, key=f"key-{n}"), now_us=0)
    for _ in range(100):
        schedule.done(schedule.take(now_us=SECOND_US))

    assert None is schedule.take(now_us=HOUR_US)
    assert {} == schedule._lanes


class ScheduleMachine(RuleBasedStateMachine):
    """Any order of events: each call is in one place, one question a key is out, and none comes too soon."""

    @initialize(capacity=st.integers(1, 6), per_second=st.sampled_from([0.5, 5.0, 1000.0]))
    def begin(self, capacity, per_second):
        self.horizon_us = HOUR_US
        self.distance_us = SECOND_US / per_second
        self.schedule = Schedule(horizon_us=self.horizon_us, max_per_second=per_second, capacity=capacity)
        self.capacity = capacity
        self.now_us = 0
        self.count = 0
        self.inside = {}
        self.taken = {}
        self.asked_us = {}
        self.earliest_us = {}

    @rule(
        key=st.sampled_from([KEY, OTHER_KEY]),
        cost=st.sampled_from([None, "0.1"]),
        age_us=st.integers(-HOUR_US, 2 * HOUR_US),
    )
    def add(self, key, cost, age_us):
        self.count += 1
        call = a_call(n=self.count, key=key, response_cost=cost)
        left = self.schedule.add(call, now_us=self.now_us, age_us=age_us)
        if not (left is call and call.key_hash in self.schedule.stopped_keys):
            self.inside[call.call_id] = self.now_us + max(self.horizon_us - max(age_us, 0), 0)
            self.earliest_us[call.call_id] = self.now_us
        if left is not None:
            self.inside.pop(left.call_id, None)

    @rule(us=st.integers(0, 3 * HOUR_US))
    def wait(self, us):
        self.now_us += us

    @rule()
    def wait_until_due(self):
        wake_us = self.schedule.wake_us()
        if wake_us is None:
            assert set(self.inside) == set() or set(self.taken)
        else:
            self.now_us = max(self.now_us, wake_us)
            assert self.take_one() is not None

    @rule()
    def take(self):
        self.take_one()

    def take_one(self):
        wake_us = self.schedule.wake_us()
        waiting = self.schedule.take(now_us=self.now_us)
        assert (waiting is not None) == (wake_us is not None and wake_us <= self.now_us)
        if waiting is not None:
            key_hash = waiting.call.key_hash
            assert key_hash not in self.taken
            assert key_hash not in self.schedule.stopped_keys
            assert self.now_us - self.asked_us.get(key_hash, -(10**12)) >= int(self.distance_us)
            assert self.now_us >= self.earliest_us[waiting.call.call_id]
            assert self.inside.pop(waiting.call.call_id) == waiting.deadline_us
            self.taken[key_hash] = waiting
            self.asked_us[key_hash] = self.now_us
        return waiting

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), jitter=st.floats(0, 1, exclude_max=True))
    def answer(self, data, jitter):
        waiting = self.taken.pop(data.draw(st.sampled_from(sorted(self.taken))))
        kind = data.draw(st.sampled_from(["done", "missed", "hindered", "throttled", "stop"]))
        again = False
        match kind:
            case "done":
                self.schedule.done(waiting)
            case "missed":
                again = self.schedule.missed(waiting, now_us=self.now_us, jitter=jitter)
            case "hindered":
                again = self.schedule.hindered(waiting, now_us=self.now_us, jitter=jitter)
            case "throttled":
                pause_us = data.draw(st.integers(0, 2 * HOUR_US))
                again = self.schedule.hindered(waiting, now_us=self.now_us, jitter=jitter, retry_after_us=pause_us)
            case "stop":
                self.schedule.done(waiting)
                for call in self.schedule.stop(waiting.call.key_hash):
                    self.inside.pop(call.call_id)
        if kind in {"missed", "hindered", "throttled"}:
            assert again == (self.now_us < waiting.deadline_us)
        if again:
            self.inside[waiting.call.call_id] = waiting.deadline_us

    @invariant()
    def each_call_is_in_one_place(self):
        assert len(self.inside) == len(self.schedule)
        assert len(self.schedule) <= self.capacity + len(self.taken) + 2


ScheduleMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduleInAnyOrder = ScheduleMachine.TestCase
