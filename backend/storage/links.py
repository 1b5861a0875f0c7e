"""Link tokens as the bridge asks for them: sealed by the secret, and who spent one in the database."""

from backend.profiles.links import LinkSeal
from backend.storage.session import Database, StorageError
from sdk_bridge.server.links import Redeemer
from sdk_bridge.server.ports import JournalBusy
from sdk_bridge.wire.app_events import Link


class StoredLinks:
    """Satisfies the bridge's LinkDesk."""

    def __init__(self, seal: LinkSeal, state: Database) -> None:
        self._seal = seal
        self._state = state

    def seal(self, link: Link) -> str:
        return self._seal.seal(link)

    def open(self, token: str) -> Link | None:
        return self._seal.open(token)

    async def redeemer(self, nonce: str) -> Redeemer | None:
        try:
            row = await self._state.read(lambda session: session.row("link_redemption", nonce=nonce))
        except StorageError as error:
            raise JournalBusy(str(error)) from error
        return Redeemer(row["device_id"], row["anonymous_id"]) if row is not None else None
