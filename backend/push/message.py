"""A push as the message that FCM takes, through firebase-admin's own types, validators and encoder."""

import base64
import hashlib
import re
from typing import Any

import msgspec
from firebase_admin import _messaging_encoder, messaging

from backend.push.model import Claimed, PushContent

PAYLOAD_BYTES = 4096  # FCM's and APNs's limit; we count all platforms together, so that none can exceed it
LONGEST_TTL_S = 28 * 86_400  # FCM refuses more than four weeks
COLLAPSE_ID_BYTES = 64  # APNs refuses a longer apns-collapse-id
TOPIC_CHARACTERS = 32  # RFC 8030, 5.4: a longer Topic is refused by push services

_ANALYTICS_LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
_TOPIC = re.compile(rf"[A-Za-z0-9_\-]{{1,{TOPIC_CHARACTERS}}}")
_RESERVED = re.compile(r"from|message_type|(google|gcm)(\..*)?")  # FCM refuses these keys in data
_TARGETS = ("token", "fid")
_encoder = _messaging_encoder.MessageEncoder()


class MessageError(ValueError):
    """The content cannot become a message that FCM takes; the text says which part its author must mend."""


class PayloadTooLarge(MessageError):
    """It has more bytes than FCM takes."""


def build(push: Claimed, now: int) -> messaging.Message:
    """The message for the push's address; `now` is unix ms and gives the time to live."""
    content = push.content
    ttl_s = min(max(0, (content.expires_at - now) // 1000), LONGEST_TTL_S)
    message = messaging.Message(
        data=_data(push),
        notification=messaging.Notification(content.title, content.body, content.image),
        android=_android(content, ttl_s),
        apns=_apns(content),
        webpush=_webpush(content, ttl_s),
        fcm_options=_options(content.campaign_id),
    )
    # Set afterwards on purpose: the constructor warns with every `token=` that it is deprecated for `fid=`,
    # yet apps in the field still register tokens, and FCM still takes them.
    setattr(message, push.address_kind, push.address_value)
    return message


def encode(message: messaging.Message) -> dict[str, Any]:
    """The message as FCM's JSON. Raises MessageError, also when it exceeds the payload limit."""
    try:
        encoded: dict[str, Any] = _encoder.default(message)
    except ValueError as error:
        raise MessageError(str(error)) from error
    for key in encoded.get("data", {}):
        if _RESERVED.fullmatch(key):
            raise MessageError(f"data may not use the key `{key}`: FCM reserves it")
    size = len(msgspec.json.encode({key: encoded[key] for key in encoded if key not in _TARGETS}))
    if size > PAYLOAD_BYTES:
        raise PayloadTooLarge(f"the payload has {size} bytes, FCM takes {PAYLOAD_BYTES}: shorten it")
    return encoded


def check_content(content: PushContent) -> None:
    """For authors of campaigns: raises MessageError if no message can be made of this content."""
    encode(
        build(
            Claimed(
                push_id="0" * 36,
                decision_id=0,
                profile_id="",
                address_kind="fid",
                address_value="any",
                platform=None,
                content=content,
                owner="",
            ),
            now=0,
        )
    )


def _data(push: Claimed) -> dict[str, str]:
    content = push.content
    ours = {
        "campaign_id": content.campaign_id,
        "push_id": push.push_id,
        "expires_at": str(content.expires_at),
    }
    if content.deeplink:
        ours["deeplink"] = content.deeplink
    return content.data | ours


def _android(content: PushContent, ttl_s: int) -> messaging.AndroidConfig:
    return messaging.AndroidConfig(
        priority="high",
        ttl=ttl_s,
        collapse_key=content.collapse,
        notification=messaging.AndroidNotification(
            channel_id=content.collapse, tag=content.campaign_id, image=content.image
        ),
    )


def _apns(content: PushContent) -> messaging.APNSConfig:
    return messaging.APNSConfig(
        headers={
            "apns-priority": "10",
            "apns-expiration": str(content.expires_at // 1000),
            "apns-collapse-id": _collapse_id(content.campaign_id),
        },
        payload=messaging.APNSPayload(
            aps=messaging.Aps(
                mutable_content=content.image is not None,  # lets the app's extension fetch the image
                thread_id=content.collapse,
                custom_data={"interruption-level": "active"},  # Apple forbids time-sensitive for marketing
            )
        ),
        fcm_options=messaging.APNSFCMOptions(image=content.image) if content.image else None,
    )


def _webpush(content: PushContent, ttl_s: int) -> messaging.WebpushConfig:
    secure = content.deeplink if (content.deeplink or "").startswith("https://") else None
    return messaging.WebpushConfig(
        headers={"TTL": str(ttl_s), "Urgency": "high", "Topic": _topic(content.campaign_id)},
        fcm_options=messaging.WebpushFCMOptions(link=secure) if secure else None,
    )


def _options(campaign_id: str) -> messaging.FCMOptions | None:
    fits = _ANALYTICS_LABEL.fullmatch(campaign_id)
    return messaging.FCMOptions(analytics_label=campaign_id) if fits else None


def _collapse_id(campaign_id: str) -> str:
    return campaign_id if len(campaign_id.encode()) <= COLLAPSE_ID_BYTES else _digest(campaign_id)


def _topic(campaign_id: str) -> str:
    return campaign_id if _TOPIC.fullmatch(campaign_id) else _digest(campaign_id)


def _digest(text: str) -> str:
    """32 characters of A–Z, a–z, 0–9, - and _, the same for the same text."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())[:TOPIC_CHARACTERS].decode()
