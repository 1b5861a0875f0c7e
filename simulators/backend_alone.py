"""The whole backend alone, in a folder of its own, with no broker: for trying its API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.app import running
from backend.clock import unix_ms
from backend.config import STATE_FILE, Config, Http, Mqtt, Push
from backend.storage import registry, sources
from backend.storage.database import Session, open_for_writing, transaction

NO_BROKER = Mqtt(port=1)  # nothing listens there, and a broker of the machine's own shall not be found


@dataclass(frozen=True, slots=True)
class BackendAlone:
    """Where it listens, an API token of the role admin, and the write key of a trusted source."""

    url: str
    token: str
    write_key: str

    @property
    def headers(self) -> dict[str, str]:
        """What a call of the API brings."""
        return {"Authorization": f"Bearer {self.token}"}


@asynccontextmanager
async def running_backend(folder: Path, push: Push | None = None) -> AsyncIterator[BackendAlone]:
    """A backend on a free port of 127.0.0.1, alive inside the context, with one shop set up."""
    connection = open_for_writing(folder / STATE_FILE, "state")
    try:
        token, write_key = transaction(connection, "state", _set_up)
    finally:
        connection.close()
    config = Config(str(folder), http=Http(port=0), mqtt=NO_BROKER, push=push)
    async with running(config) as (backend, _parts):
        yield BackendAlone(f"http://{backend.host}:{backend.port}", token, write_key)


def _set_up(session: Session) -> tuple[str, str]:
    session.run("save_store", store_id="s1", name="Shop", timezone="Europe/Vienna")
    session.run("save_zone", store_id="s1", zone_id="a", name="Coffee", categories='["coffee"]')
    session.run("save_gateway", store_id="s1", gateway_id="g1", zone_id="a", name="Coffee", x_m=1.0, y_m=2.0)
    token = registry.create_token(session, "tester", "admin", unix_ms())
    source = sources.create_source(session, "tester", "Tester", "server", "off", unix_ms())
    return token, source["write_key"]
