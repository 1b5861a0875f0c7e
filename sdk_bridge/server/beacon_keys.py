"""The canonical text of a beacon's identity, checked where strangers give it."""

import re

_HEX = "[0-9a-f]"
_NAMING = {
    "ibeacon": re.compile(rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}:\d{{1,5}}:\d{{1,5}}"),
    "altbeacon": re.compile(rf"{_HEX}{{40}}"),
    "eddystone-uid": re.compile(rf"{_HEX}{{20}}:{_HEX}{{12}}"),
    "eid": re.compile(rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"),
}


def canonical_beacon_key(text: str) -> str | None:
    """The key in lower case, or None when it is not the key of a beacon that one person can carry.

    An Eddystone-URL is the same on every beacon that shows it, and telemetry frames name nobody. A rotating
    beacon goes by the `eid:<uuid>` that its registration answered; the ids it sends are no key for long.
    """
    frame, _, identity = text.strip().lower().partition(":")
    pattern = _NAMING.get(frame)
    return f"{frame}:{identity}" if pattern is not None and pattern.fullmatch(identity) else None
