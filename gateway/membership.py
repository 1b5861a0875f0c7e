"""What enrolment adds to a running gateway: the broker by mutual TLS, renewal, remote configuration."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gateway.certificate import KnownTime
from gateway.clock import Clock
from gateway.config import Config
from gateway.enrol import CertificateKeeper
from gateway.identity import Identity, broker_of, load_identity
from gateway.remote import Remote
from sdk_bridge.mqtt import Broker


@dataclass(frozen=True, slots=True)
class Membership:
    """An enrolled gateway's papers, and the two workers that go with them."""

    data_dir: Path
    identity: Identity
    time: KnownTime
    keeper: CertificateKeeper
    remote: Remote

    @classmethod
    def of(cls, path: Path, config: Config, clock: Clock, random: Random) -> "Membership | None":
        """None before enrolment; `path` is the gateway's own file. Raises IdentityUnusable."""
        identity = load_identity(config.data_dir, config.address)
        if identity is None:
            return None
        time = KnownTime(config.data_dir, clock)
        keeper = CertificateKeeper(config.data_dir, identity, time, random)
        key = identity.facts.config_key
        remote = Remote(path, config.data_dir, config.address, key, clock.boot_ms)
        return cls(config.data_dir, identity, time, keeper, remote)

    def broker(self, client_id: str) -> Broker:
        """Where the identity says, by mutual TLS."""
        return broker_of(self.identity, self.data_dir, client_id, self.time)

    async def run(self) -> None:
        """As long as the process lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.run())
            group.create_task(self.remote.run())
