"""What the bridge needs of the backend: somewhere to keep events, and who may send them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sdk_bridge.wire.app_events import AppEvent


class JournalBusy(RuntimeError):
    """The journal or the registry of sources cannot take more just now; the sender is told to come again."""

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Journal(Protocol):
    """Where accepted events go. Both calls may raise JournalBusy."""

    async def append_events(self, events: Sequence[AppEvent]) -> int:
        """Commits the events durably before it returns, once per message id; how many were new."""
        ...

    async def bury(self, origin: str, reason: str, payload: bytes) -> None:
        """Keeps what could not be understood as a dead letter."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """An app, a site or a server that may send events, as its write key tells.

    `proof` is whether a user id must come with its HMAC, made with `proof_secret`. The keys of web and app
    sources are public, so theirs is `required` unless the retailer decided otherwise; servers are trusted.
    """

    source_id: str
    kind: Literal["web", "app", "server"]
    proof: Literal["required", "off"]
    proof_secret: str


class Sources(Protocol):
    """The registry of write keys."""

    async def source_for_key(self, write_key: str) -> Source | None:
        """The source of this key, None when no live source has it, which is found out afresh each time: SDKs
        drop for ever what is answered 401. May raise JournalBusy.
        """
        ...
