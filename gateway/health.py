"""Whose telemetry is it? TLM names no beacon, so it belongs to the name last heard from its address."""

from gateway.beacons import EddystoneTlm


class HealthDesk:
    """Remembers the name behind each radio address, and each address's last report.

    An address is used for nothing else and never leaves the gateway. BlueZ hands a report out again with
    every other frame of the device, so a repeated one is not news. Holds at most `limit` addresses; full, it
    forgets the one it has known longest, which its next advert names again. `forgotten` counts them.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._names: dict[str, str] = {}
        self._reports: dict[str, EddystoneTlm] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._names)

    def name(self, address: str, key: str) -> None:
        """An identity frame with this key was heard (and allowed) from the address."""
        known = self._names.get(address)
        if known == key:
            return
        if known is None and len(self._names) >= self._limit:
            self._forget_one()
        self._names[address] = key

    def told(self, address: str, report: EddystoneTlm) -> str | None:
        """The key that this report is news about; None if nobody is known there or it was told before."""
        key = self._names.get(address)
        if key is None or self._reports.get(address) == report:
            return None
        self._reports[address] = report
        return key

    def _forget_one(self) -> None:
        address = next(iter(self._names))
        del self._names[address]
        self._reports.pop(address, None)
        self.forgotten += 1
