"""The canonical text of a beacon's identity, checked where strangers give it."""

import re

_HEX = "[0-9a-f]"
_UUID = rf"{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}"
_NUMBER = "(?:0|[1-9][0-9]{0,4})"
_NAMING = {
    "ibeacon": re.compile(rf"({_UUID}):({_NUMBER}):({_NUMBER})"),
    "altbeacon": re.compile(rf"({_HEX}{{32}})({_HEX}{{4}}){_HEX}{{4}}"),
    "eddystone-uid": re.compile(rf"({_HEX}{{20}}):{_HEX}{{12}}"),
    "eid": re.compile(_UUID),
}
_REGIONS = {
    "ibeacon": re.compile(rf"{_UUID}(?::({_NUMBER}))?"),
    "altbeacon": re.compile(rf"{_HEX}{{32}}"),
    "eddystone-uid": re.compile(rf"{_HEX}{{20}}"),
}
_MOST = 65_535  # major and minor have two bytes each


def canonical_beacon_key(text: str) -> str | None:
    """The key in lower case, or None when it is not the key of a beacon that one person can carry.

    An Eddystone-URL is the same on every beacon that shows it, and telemetry frames name nobody. A rotating
    beacon goes by the `eid:<uuid>` that its registration answered; the ids it sends are no key for long.
    """
    return _canonical(text, _NAMING)


def canonical_region_key(text: str) -> str | None:
    """What many keys begin with: `ibeacon:<uuid>`, also with `:<major>`, `altbeacon:<32 hex>`,
    `eddystone-uid:<20 hex>`. None when it is not that.
    """
    return _canonical(text, _REGIONS)


def regions_of(beacon_key: str) -> tuple[str, ...]:
    """The regions that a beacon, given by its canonical key, lies in; the widest first."""
    frame, _, identity = beacon_key.partition(":")
    pattern = _NAMING.get(frame)
    match = pattern.fullmatch(identity) if pattern is not None else None
    if match is None or frame == "eid":
        return ()
    if frame == "ibeacon":
        return f"ibeacon:{match[1]}", f"ibeacon:{match[1]}:{match[2]}"
    return (f"{frame}:{match[1]}",)


def _canonical(text: str, patterns: dict[str, re.Pattern[str]]) -> str | None:
    frame, _, identity = text.strip().lower().partition(":")
    pattern = patterns.get(frame)
    match = pattern.fullmatch(identity) if pattern is not None else None
    if match is None:
        return None
    numbers = match.groups()[-2:] if frame == "ibeacon" else ()
    too_large = any(number and number.isdecimal() and int(number) > _MOST for number in numbers)
    return None if too_large else f"{frame}:{identity}"
