"""The message that FCM gets for a push: every platform's part, limits, and Google's own validators."""

import warnings
from typing import Any

import msgspec
import pytest
from firebase_admin import _messaging_encoder, messaging
from hypothesis import given
from hypothesis import strategies as st

from backend.push.message import PAYLOAD_BYTES, MessageError, build, check_content, encode
from backend.push.model import Claimed, PushContent
from simulators.fcm_message import read_request

NOW = 1_800_000_000_000


def push(kind: str = "fid", **content: Any) -> Claimed:
    values: dict[str, Any] = {
        "title": "Winter coats",
        "body": "20 % off today",
        "campaign_id": "winter-coats",
        "expires_at": NOW + 600_000,
        "image": "https://shop.example/coat.jpg",
        "deeplink": "https://shop.example/coats",
    }
    return Claimed(
        push_id="018f",
        decision_id=1,
        profile_id="anna",
        address_kind=kind,  # type: ignore[arg-type]
        address_value="phone",
        platform="android",
        content=PushContent(**values | content),
        owner="me",
    )


def encoded(claimed: Claimed) -> dict[str, Any]:
    return encode(build(claimed, NOW))


def test_the_whole_message() -> None:
    assert encoded(push(data={"code": "WINTER20"})) == {
        "fid": "phone",
        "notification": {
            "title": "Winter coats",
            "body": "20 % off today",
            "image": "https://shop.example/coat.jpg",
        },
        "data": {
            "code": "WINTER20",
            "campaign_id": "winter-coats",
            "push_id": "018f",
            "deeplink": "https://shop.example/coats",
            "expires_at": str(NOW + 600_000),
        },
        "android": {
            "priority": "high",
            "ttl": "600s",
            "collapse_key": "offers",
            "notification": {
                "channel_id": "offers",
                "tag": "winter-coats",
                "image": "https://shop.example/coat.jpg",
            },
        },
        "apns": {
            "headers": {
                "apns-priority": "10",
                "apns-expiration": str((NOW + 600_000) // 1000),
                "apns-collapse-id": "winter-coats",
            },
            "payload": {"aps": {"mutable-content": 1, "thread-id": "offers", "interruption-level": "active"}},
            "fcm_options": {"image": "https://shop.example/coat.jpg"},
        },
        "webpush": {
            "headers": {"TTL": "600", "Urgency": "high", "Topic": "winter-coats"},
            "fcm_options": {"link": "https://shop.example/coats"},
        },
        "fcm_options": {"analytics_label": "winter-coats"},
    }


def test_a_token_is_addressed_as_one_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = encoded(push("token"))
    assert message["token"] == "phone"
    assert "fid" not in message


def test_a_plain_offer_needs_neither_image_nor_link() -> None:
    message = encoded(push(image=None, deeplink=None))
    assert "image" not in message["notification"]
    assert "fcm_options" not in message["webpush"]
    assert "mutable-content" not in message["apns"]["payload"]["aps"]


def test_an_app_link_is_no_web_link() -> None:
    message = encoded(push(deeplink="shop://coats"))
    assert message["data"]["deeplink"] == "shop://coats"
    assert "fcm_options" not in message["webpush"]


@pytest.mark.parametrize(
    ("life_ms", "ttl"), [(999, "0s"), (-5, "0s"), (90_500, "90s"), (400 * 86_400_000, "2419200s")]
)
def test_the_time_to_live_ends_with_the_offer(life_ms: int, ttl: str) -> None:
    assert encoded(push(expires_at=NOW + life_ms))["android"]["ttl"] == ttl


def test_data_cannot_overwrite_what_is_ours() -> None:
    assert encoded(push(data={"push_id": "forged"}))["data"]["push_id"] == "018f"


@pytest.mark.parametrize("campaign_id", ["c" * 200, "Wintermäntel & Schals", "a b", "x" * 64])
def test_any_campaign_id_fits_every_platform(campaign_id: str) -> None:
    message = encoded(push(campaign_id=campaign_id))
    assert len(message["apns"]["headers"]["apns-collapse-id"].encode()) <= 64
    assert len(message["webpush"]["headers"]["Topic"]) <= 32
    read_request(msgspec.json.encode({"message": message}))
    again = encoded(push(campaign_id=campaign_id))
    assert again["apns"]["headers"] == message["apns"]["headers"], "a resend must replace the first"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"body": "x" * PAYLOAD_BYTES}, "the payload has .* bytes, FCM takes 4096"),
        ({"data": {"from": "us"}}, "reserves"),
        ({"data": {"google.sent_time": "1"}}, "reserves"),
    ],
)
def test_content_that_no_message_can_carry(content: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        encoded(push(**content))
    with pytest.raises(MessageError, match=complaint):
        check_content(push(**content).content)


def test_the_limit_is_to_the_byte() -> None:
    def size(body: str) -> int:
        message = encoded(push(body=body))
        return len(msgspec.json.encode({key: message[key] for key in message if key != "fid"}))

    room = PAYLOAD_BYTES - size("")
    assert size("x" * room) == PAYLOAD_BYTES
    with pytest.raises(MessageError):
        size("x" * (room + 1))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    words, words, words.filter(bool), st.dictionaries(st.from_regex(r"k[a-z]{1,5}", fullmatch=True), words)
)
def test_what_we_encode_fcm_takes(title: str, body: str, campaign_id: str, data: dict[str, str]) -> None:
    try:
        message = encoded(push(title=title, body=body, campaign_id=campaign_id, data=data))
    except MessageError as error:
        assert "payload" in str(error)
        return
    read_request(msgspec.json.encode({"message": message}))


def test_the_private_encoder_is_there() -> None:
    assert callable(_messaging_encoder.MessageEncoder().default)
    assert set(vars(messaging.Message(fid="x"))) >= {"fid", "token"}
