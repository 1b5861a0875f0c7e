"""Link tokens: a page shows a code, and the app that scans it is its visitor's. Short-lived, one-time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Protocol
from urllib.parse import quote

import msgspec
import segno
from msgspec import Meta, Struct

from sdk_bridge.server.bodies import Rejected
from sdk_bridge.server.calls import Call, DeviceId
from sdk_bridge.server.normalise import Arrival, context_of, device_id_of, event_of
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.wire.app_events import AppEvent, Link, Text
from sdk_bridge.wire.identifiers import usable

MAX_TOKEN_CHARS: Final = 2_000  # beyond it the address would not fit into a code that a camera can read
LIFE_MS: Final = 10 * 60_000
AHEAD_MS: Final = 60_000  # between the clocks of two replicas
ASK_AGAIN_S: Final = 0.05
ASK_FOR_S: Final = 2.0  # how long a repeated redemption waits for the fold to have the first


class LinkCall(Call, rename="camel", kw_only=True):
    """A web visitor asks for a link token; with proof of the user it carries the account, too."""


class RedeemCall(Call, rename="camel", kw_only=True):
    """An app spends a link token."""

    token: Annotated[str, Meta(min_length=1, max_length=16 * 1024)]
    device_id: DeviceId
    platform: Text | None = None


class LinkAnswer(Struct, rename="camel"):
    """A token, the deep link that carries it, the same as a QR code (SVG), and until when, unix ms."""

    token: str
    url: str
    svg: str
    expires_at: int
    success: bool = True


class Redeemer(Struct, frozen=True):
    """Who spent a token."""

    device_id: str
    anonymous_id: str | None


class LinkDesk(Protocol):
    """Who seals tokens and remembers who spent them."""

    def seal(self, link: Link) -> str:
        """The token: what the link says, and a signature."""
        ...

    def open(self, token: str) -> Link | None:
        """What a token of ours says, expired or not; None for any other."""
        ...

    async def redeemer(self, nonce: str) -> Redeemer | None:
        """Who spent the token, as far as it is folded. May raise JournalBusy."""
        ...


@dataclass(frozen=True, slots=True)
class Links:
    """What the bridge needs to make and take tokens. `deep_link` has `{token}` where the token goes."""

    desk: LinkDesk
    new_nonce: Callable[[], str]
    deep_link: str
    life_ms: int = LIFE_MS

    def issue(self, call: LinkCall, arrival: Arrival) -> LinkAnswer:
        """A token for the visitor. Raises Refusal, Rejected."""
        if arrival.source.kind == "app":
            raise Refusal(403, "foreign_source", "an app redeems link tokens; a web source asks for them")
        asked = event_of(call, "link", arrival, context_of(call))
        if usable(asked.anonymous_id) is None or asked.anonymous_id is None:
            raise Rejected("`anonymousId` must say whom the link is for")
        now = arrival.received_at
        link = Link(
            nonce=self.new_nonce(),
            source=arrival.source.source_id,
            anonymous_id=asked.anonymous_id,
            issued_at=now,
            expires_at=now + self.life_ms,
            user_id=asked.user_id if asked.proven else None,
        )
        token = self.desk.seal(link)
        url = self.deep_link.replace("{token}", quote(token, safe=""))
        return LinkAnswer(token, url, _code(token, url), link.expires_at)

    def redemption(self, call: RedeemCall, arrival: Arrival) -> AppEvent:
        """The event that joins visitor, account and app. Raises Refusal, Rejected.

        It goes by the token's own source, nonce and time, so that the journal keeps one of them.
        """
        if arrival.source.kind != "app":
            raise Refusal(403, "foreign_source", "only an app redeems link tokens")
        if len(call.token) > MAX_TOKEN_CHARS:
            raise Refusal(400, "invalid_link", "this is no link token of ours")
        link = self.desk.open(call.token)
        if link is None or link.issued_at > arrival.received_at + AHEAD_MS:
            raise Refusal(400, "invalid_link", "this is no link token of ours")
        if arrival.received_at > link.expires_at:
            raise expired_link()
        event = event_of(
            call,
            "link",
            arrival,
            context_of(call),
            device_id=device_id_of(call.device_id),
            platform=call.platform,
            link=link,
        )
        return msgspec.structs.replace(
            event,
            message_id=f"link-{link.nonce}",
            source=link.source,
            occurred_at=arrival.received_at,
            original_at=link.issued_at,
        )

    async def settle_again(self, event: AppEvent) -> None:
        """The token was spent before: fine where the same app repeats itself. Raises Refusal otherwise."""
        nonce = event.link.nonce if event.link is not None else ""
        loop = asyncio.get_running_loop()
        until = loop.time() + ASK_FOR_S
        while (spent := await self.desk.redeemer(nonce)) is None:
            if loop.time() > until:
                raise Refusal(503, "busy", "somebody redeems this link just now; ask again shortly", 1)
            await asyncio.sleep(ASK_AGAIN_S)
        if spent != Redeemer(event.device_id or "", event.anonymous_id):
            raise Refusal(409, "used_link", "this link was redeemed already; show a new code")


def expired_link() -> Refusal:
    """The answer to a token that says nothing any more."""
    return Refusal(400, "expired_link", "the link's time is over; show a new code")


def _code(token: str, url: str) -> str:
    """Raises Rejected for ids so long that no camera could read the code."""
    if len(token) > MAX_TOKEN_CHARS:
        raise Rejected("`anonymousId` and `userId` are too long for a code")
    try:
        code = segno.make_qr(url, error="l")
    except segno.DataOverflowError as error:
        raise Rejected("the deep link is too long for a code") from error
    return str(code.svg_inline(scale=4, border=4, omitsize=True, svgclass=None, lineclass=None))


link_call = msgspec.json.Decoder(LinkCall)
redeem_call = msgspec.json.Decoder(RedeemCall)
