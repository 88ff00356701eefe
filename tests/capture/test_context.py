"""What a call carries beside who it is for, and the alert where a name stands in public."""

import gc

import pytest
from tests.capture.recording import FakeRecorder, a_request, begun

from openrouter_audit.capture import context as module
from openrouter_audit.capture import recorded_call
from openrouter_audit.capture.attribution import attribution
from openrouter_audit.capture.context import names_person
from openrouter_audit.capture.recorded_call import RecordedCall, faults
from openrouter_audit.core.entries import AlertRaised, Application, Claimed, Context, Private
from openrouter_audit.errors import AuditUnavailable


def titled(title, *, user=None, recorder=None, body=b'{"model":"a/b"}', header=b"X-Title"):
    """What a recorder was told of one call."""
    recorder = recorder or FakeRecorder()
    with attribution(user=user):
        RecordedCall.begin(recorder, a_request(body=body, headers=[(header, title.encode())]))
    return recorder


def alerts(recorder):
    return [facts for facts, _, _ in recorder.frames if isinstance(facts, AlertRaised)]


def test_how_an_application_presents_itself_is_recorded_and_bounded():
    headers = [
        (b"X-Title", b"old"),
        (b"X-OpenRouter-Title", "Gr\u00fc\u00dfe".encode()),
        (b"HTTP-Referer", b"https://a.example/"),
    ]
    headers.append((b"X-OpenRouter-Categories", b"cli-agent,cloud-agent"))
    _, intent, private = begun(a_request(headers=headers))
    expected = Application(title="Gr\u00fc\u00dfe", referer="https://a.example/", categories="cli-agent,cloud-agent")
    assert Context(application=expected) == private.context
    assert "a.example" not in repr(intent)
    _, _, private = begun(a_request(headers=[(b"X-Title", b"old"), (b"HTTP-Referer", b"r" * 9000)]))
    assert ("old", 1024) == (private.context.application.title, len(private.context.application.referer))
    _, _, private = begun(a_request(headers=[(b"X-Title", b"\xff" * 5000)]))
    assert 256 == len(private.context.application.title)
    assert None is begun(a_request(headers=[(b"X-Title", b"")]))[2].context


def test_the_same_headers_give_the_same_object_and_the_memory_of_them_is_bounded():
    def application(title):
        return begun(a_request(headers=[(b"X-Title", title)]))[2].context.application

    assert application(b"shop") is application(b"shop")
    for number in range(1000):
        application(b"shop %d" % number)
    assert len(module._applications) <= 256
    application(b"s" * 100_000)
    assert max(len(each[0] or b"") for each in module._applications) <= 1024


@pytest.mark.parametrize("header", [b"X-Title", b"x-openrouter-title"])
@pytest.mark.parametrize(
    ("title", "user", "body"),
    [
        ("alice-8841", "alice-8841", b"{}"),
        (" Alice-8841 ", "alice-8841", b"{}"),
        ("Shop bot for bob.b+x@mail.example.org", None, b"{}"),
        ("mallory", "alice", b'{"user":"mallory"}'),
        ("mallory", None, b'{"user":"mallory"}'),
        ("h-1", "alice", b'{"safety_identifier":"h-1"}'),
        ("m-1", "alice", b'{"user":"u","metadata":{"user_id":"m-1"}}'),
    ],
)
def test_a_person_in_the_title_raises_one_alert_without_the_name(title, user, body, header):
    """
    Attributed, claimed, or plainly an address; the alert names the call and comes after its intent.
    """
    recorder = titled(title, user=user, body=body, header=header)
    titled(title, user=user, body=body, header=header, recorder=recorder)
    (alert,) = alerts(recorder)
    assert ("user_id_in_title", recorder.intents[0].id) == (alert.rule, alert.call)
    assert [AlertRaised] == [type(facts) for facts, _, _ in recorder.frames[1:2]]
    assert title.strip().casefold() not in repr(alert).casefold()
    assert 2 == len(recorder.intents)


@pytest.mark.parametrize("title", ["Shop bot", "alice", "@alice", "a@b", "8841", "shop@home"])
def test_a_title_that_is_none_of_these_raises_nothing(title):
    recorder = titled(title, user="alice-8841", body=b'{"user":"mallory","metadata":{"user_id":"m-1"}}')
    assert [] == alerts(recorder)


def test_another_log_of_the_process_hears_of_it_too_and_is_forgotten_with_its_log():
    recorder = titled("a@example.org")
    assert 1 == len(alerts(recorder)) == len(alerts(titled("a@example.org")))
    del recorder
    gc.collect()
    assert not [known for known in recorded_call._alerted.values() if known == {"a@example.org"}]


def test_alerts_are_bounded():
    recorder = FakeRecorder()
    limit, recorded_call.MAX_ALERTS = recorded_call.MAX_ALERTS, 3
    try:
        for number in range(10):
            titled(f"{number}@example.org", recorder=recorder)
    finally:
        recorded_call.MAX_ALERTS = limit
    assert (3, 10) == (len(alerts(recorder)), len(recorder.intents))


def test_an_alert_that_cannot_be_written_stops_nothing():
    """
    The intent is written, so the call goes on; the fault is counted.
    """

    class Full(FakeRecorder):
        def write(self, facts, private=None, *, follows=None):
            if isinstance(facts, AlertRaised):
                raise AuditUnavailable("the spool is full", reason="full")
            return super().write(facts, private, follows=follows)

    before = faults.counts.get("alert", 0)
    recorder = titled("a@example.org", recorder=Full())
    assert (1, before + 1) == (len(recorder.intents), faults.counts["alert"])


def test_whoever_has_no_title_names_nobody():
    for context in (
        None,
        Context(),
        Context(application=Application(referer="a@b.example")),
        Context(claimed=Claimed()),
    ):
        assert None is names_person(Private(user="a", context=context))
