"""The rules of a push: its states, what each answer means, and when it is tried again."""

import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.push.circuit import CLOSED, FIRST_PAUSE_MS, LONGEST_PAUSE_MS, PROBE_LIFE_MS
from backend.push.model import (
    LONGEST_WAIT_S,
    TRANSITIONS,
    Accepted,
    AddressVerdict,
    Claimed,
    Failure,
    Finish,
    IllegalStep,
    Outcome,
    PushContent,
    PushState,
    Refused,
    Rejected,
    Requeue,
    Retry,
    Unknown,
    decode_content,
    encode_content,
    give_up,
    outcome,
    postpone,
    retry_after_s,
    settle,
    step,
    wait_ms,
)

NOW = 1_800_000_000_000
KEEP, DROP, QUARANTINE = AddressVerdict.KEEP, AddressVerdict.DROP, AddressVerdict.QUARANTINE
FINAL = {state for state, after in TRANSITIONS.items() if not after}


def push(**changes: Any) -> Claimed:
    content = {"title": "Coats", "body": "20 % off", "campaign_id": "coats", "expires_at": NOW + 600_000}
    content |= {key: changes.pop(key) for key in ("expires_at", "resend_allowed") if key in changes}
    values: dict[str, Any] = {
        "push_id": "p1",
        "decision_id": 1,
        "profile_id": "anna",
        "address_kind": "fid",
        "address_value": "phone",
        "platform": "android",
        "content": PushContent(**content),
        "owner": "me",
        "attempt": 1,
        "sending_at": NOW,
    }
    return Claimed(**values | changes)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure("UnregisteredError"), Rejected("Unregistered", DROP)),
        (Failure("NotFoundError"), Rejected("NotFound", KEEP)),
        (Failure("SenderIdMismatchError"), Rejected("SenderIdMismatch", QUARANTINE)),
        (Failure("QuotaExceededError"), Retry("QuotaExceeded", 60)),
        (Failure("QuotaExceededError", retry_after_s=90), Retry("QuotaExceeded", 90)),
        (Failure("ResourceExhaustedError", retry_after_s=5), Retry("ResourceExhausted", 60)),
        (Failure("ThirdPartyAuthError"), Refused("ThirdPartyAuth", "platform")),
        (Failure("UnauthenticatedError"), Refused("Unauthenticated")),
        (Failure("PermissionDeniedError"), Refused("PermissionDenied")),
        (Failure("UnavailableError", retry_after_s=7), Retry("Unavailable", 7)),
        (Failure("InternalError"), Retry("Internal", 0)),
        (Failure("InvalidArgumentError"), Rejected("InvalidArgument", KEEP)),
        (
            Failure("InvalidArgumentError", fcm_code="INVALID_ARGUMENT", violated=("message.token",)),
            Rejected("InvalidArgument", DROP),
        ),
        (
            Failure("InvalidArgumentError", fcm_code="INVALID_ARGUMENT", violated=("message.data",)),
            Rejected("InvalidArgument", KEEP),
        ),
        (
            Failure(
                "InvalidArgumentError",
                "The registration token is not a valid FCM registration token",
                "INVALID_ARGUMENT",
            ),
            Rejected("InvalidArgument: The registration token is not a valid FCM registration token", DROP),
        ),
        (
            Failure("InvalidArgumentError", "Android message is too big", "INVALID_ARGUMENT"),
            Rejected("InvalidArgument: Android message is too big", KEEP),
        ),
        (Failure("DeadlineExceededError"), Unknown("DeadlineExceeded")),
        (Failure("UnknownError", "HTTP 502"), Unknown("Unknown: HTTP 502")),
        (Failure("SomethingNewError"), Unknown("SomethingNew")),
    ],
    ids=lambda value: value.error if isinstance(value, Failure) else "",
)
def test_what_each_failure_means(failure: Failure, expected: Outcome) -> None:
    assert outcome(failure) == expected


def test_a_reason_stays_short() -> None:
    result = outcome(Failure("UnknownError", "<html>" * 1000))
    assert isinstance(result, Unknown)
    assert len(result.reason) <= 200


@pytest.mark.parametrize(
    ("result", "state", "reason"),
    [
        (Accepted("m/1"), "accepted", None),
        (Rejected("NotFound"), "rejected", "NotFound"),
        (Unknown("timeout"), "unknown", "timeout"),
        (Retry("quota", 601), "expired", "quota"),
    ],
)
def test_answers_that_end_a_push(result: Outcome, state: str, reason: str | None) -> None:
    end = settle(push(), result, NOW, 0.5)
    assert isinstance(end, Finish)
    assert (end.state, end.reason) == (state, reason)


def test_the_service_wishes_are_honoured() -> None:
    again = settle(push(), Retry("Unavailable", 30), NOW, 0.0)
    assert again == Requeue(push(), NOW + 30_000, "Unavailable")


def test_doubt_allows_one_resend_and_only_where_the_campaign_does() -> None:
    allowed = push(resend_allowed=True)
    first = settle(allowed, Unknown("timeout"), NOW, 0.0)
    assert isinstance(first, Requeue)
    assert first.resent
    second = settle(push(resend_allowed=True, resent=True), Unknown("timeout"), NOW, 0.0)
    assert isinstance(second, Finish)
    assert second.state == "unknown"


outcomes = st.one_of(
    st.builds(Accepted, st.just("m")),
    st.builds(Retry, st.just("r"), st.floats(0, 1000)),
    st.builds(Rejected, st.just("r"), st.sampled_from(AddressVerdict)),
    st.builds(Unknown, st.just("u")),
    st.builds(Refused, st.just("f"), st.sampled_from(["project", "platform"])),
)
chances = st.floats(0, 1, exclude_max=True)
pushes = st.builds(
    push,
    attempt=st.integers(1, 50),
    resent=st.booleans(),
    resend_allowed=st.booleans(),
    expires_at=st.integers(NOW - 1000, NOW + 1_000_000),
)


@given(pushes, outcomes, chances)
def test_every_settlement_is_a_legal_step_and_nothing_waits_past_its_end(
    sent: Claimed, result: Outcome, chance: float
) -> None:
    end = settle(sent, result, NOW, chance)
    step(sent.state, PushState.QUEUED if isinstance(end, Requeue) else end.state)
    if isinstance(end, Requeue):
        assert NOW < end.next_try_at < sent.expires_at
        assert end.resent >= sent.resent, "a doubt is never forgotten"


@given(pushes, outcomes, chances)
def test_once_in_doubt_a_push_ends_accepted_or_unknown(sent: Claimed, result: Outcome, chance: float) -> None:
    end = settle(push(resent=True, expires_at=sent.expires_at), result, NOW, chance)
    assert isinstance(end, Requeue) or end.state in ("accepted", "unknown")


def test_giving_up_before_a_resend_leaves_the_doubt() -> None:
    waiting = push(sending_at=None, resent=True)
    assert give_up(waiting, PushState.SUPPRESSED, "bought").state == "unknown"
    assert postpone(waiting, waiting.expires_at, "circuit").state == "unknown"  # type: ignore[union-attr]
    assert give_up(push(sending_at=None), PushState.SUPPRESSED, "bought").state == "suppressed"


def test_final_states_lead_nowhere() -> None:
    assert {"accepted", "rejected", "unknown", "expired", "suppressed"} == FINAL
    for before in FINAL:
        with pytest.raises(IllegalStep):
            step(before, PushState.QUEUED)
    with pytest.raises(IllegalStep):
        step(PushState.QUEUED, PushState.SENDING)


@given(st.integers(1, 10_000), chances, st.floats(0, 86_400))
def test_waiting_is_bounded_and_never_shorter_than_asked(attempt: int, chance: float, asked: float) -> None:
    waited = wait_ms(attempt, chance, asked)
    assert waited >= 1000 * asked
    assert 1000 <= waited <= 1000 * max(LONGEST_WAIT_S, asked * 1.1) + 1


def test_waiting_grows_and_is_spread() -> None:
    assert [wait_ms(attempt, 0.0) for attempt in (1, 2, 3, 4)] == [1000, 2000, 4000, 8000]
    assert wait_ms(1, 0.999) > wait_ms(1, 0.0)
    assert wait_ms(1, 0.9, 60) > wait_ms(1, 0.0, 60)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("30", 30),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Friday, 15-Jan-27 08:00:10 GMT", 10),
        ("Fri Jan 15 08:00:10 2027", 10),
        ("Fri, 15 Jan 2027 08:00:10 -0000", 10),
        ("soon", 0),
        ("-5", 0),
        ("9" * 400, 86_400),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_retry_after(header: str | None, seconds: float, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three forms of RFC 9110, 5.6.7, on a machine whose own clock is set to wherever it stands."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after_s(header, NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text())
@example("0\x1f")
def test_retry_after_survives_anything(header: str) -> None:
    assert 0 <= retry_after_s(header, NOW) <= 86_400


def test_content_survives_storage() -> None:
    content = push(resend_allowed=True).content
    assert decode_content(encode_content(content)) == content


# The circuit --------------------------------------------------------------------------------------------
def test_the_circuit_opens_probes_and_closes() -> None:
    circuit = CLOSED.failed(NOW - 5, NOW, "401")
    assert circuit.blocked_until(NOW) == NOW + FIRST_PAUSE_MS
    later = NOW + FIRST_PAUSE_MS
    assert circuit.blocked_until(later) is None
    probing = circuit.admitted(later)
    assert probing.blocked_until(later + 1) == later + PROBE_LIFE_MS, "one probe at a time"
    assert probing.succeeded(later) == CLOSED
    assert probing.failed(later, later + 9, "401").probe_at == later + 9 + 2 * FIRST_PAUSE_MS


def test_stragglers_of_before_the_opening_change_nothing() -> None:
    circuit = CLOSED.failed(NOW - 5, NOW, "401")
    assert circuit.failed(NOW - 3, NOW + 1, "401") is circuit
    assert circuit.succeeded(NOW - 3) is circuit


def test_the_pause_is_bounded() -> None:
    circuit, now = CLOSED, NOW
    for _ in range(30):
        circuit = circuit.failed(now, now, "401")
        now = circuit.probe_at or now
    assert now - circuit.opened_at == LONGEST_PAUSE_MS


def test_a_closed_circuit_admits_all() -> None:
    assert CLOSED.admitted(NOW) is CLOSED
    assert CLOSED.blocked_until(NOW) is None
