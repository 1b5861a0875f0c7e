"""Erasing a person from the state: the transactions that empty the tables of `personal.py` of somebody.

The first transaction makes somebody unknown at once: tombstones, then identities, addresses, places, and
pushes on their way. History follows in chunks, then what other people's rows say of them. Every step may be
repeated, so a process that dies in between goes on where the row of `erasure_work` says.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from backend.campaigns.model import CampaignInvalid, parse_campaign
from backend.profiles.erasure import (
    CONTACT_TRAITS,
    ERASED,
    ErasureKeys,
    Tombstones,
    Traces,
    scrubbed,
    without_names,
)
from backend.profiles.model import Device
from backend.profiles.spelling import as_kept
from backend.push.model import PushContent, encode_content
from backend.segments.model import SegmentInvalid, parse_definition
from backend.storage import segments
from backend.storage.browsers_seen import write_seen_by
from backend.storage.orders import forget_order_event
from backend.storage.personal import AT_ONCE, HISTORY, By, Personal
from backend.storage.session import Row, Session
from sdk_bridge.wire.app_events import AppEvent

CHUNK: Final = 200  # rows a statement; with the budget below, what else wants to write waits 20 ms at most
BUDGET_S: Final = 0.012
SEARCHED_AT_ONCE: Final = 2_000  # of 32 KB at the most: 64 MB, for a moment
SIGHTINGS_AT_ONCE: Final = 10_000  # are looked through in some milliseconds
PHONE: Final = "phone:"  # before a device's id, where the floor follows a phone
_PLACES: Final = frozenset({"user_id", "anonymous_id", "device_id", "previous_id", "beacon_key"})


class Person(Struct):
    """Everything by which somebody is to be found; what an erasure that is under way keeps, sealed.

    `profiles` and `tags` map to what takes their place. `identifiers` and `addresses` are theirs alone.
    `anothers` are names that go with them and are the user ids of other people.
    """

    erased_at: int
    profiles: dict[str, str]
    identifiers: list[tuple[str, str]]
    addresses: list[tuple[str, str]]
    contacts: list[str]
    tags: dict[str, str]
    reached: int = 0
    reached_text: str = ""
    anothers: list[str] = []

    @property
    def names(self) -> set[str]:
        """Whatever would be a trace."""
        return {
            *self.profiles,
            *(name for _, name in self.identifiers),
            *(value for _, value in self.addresses),
            *self.contacts,
        }.difference(self.anothers)

    @property
    def devices(self) -> list[str]:
        return [name for id_type, name in self.identifiers if id_type == "device_id"]

    def keys(self, by: By) -> Iterator[dict[str, Any]]:
        """What to give the queries that find rows `by` something."""
        match by:
            case "profile":
                yield from ({"profile_id": one, "hidden": hidden} for one, hidden in self.profiles.items())
            case "identifier":
                yield from ({"id_type": id_type, "id": name} for id_type, name in self.identifiers)
            case "device":
                yield from ({"device_id": device} for device in self.devices)
            case "address":
                yield from ({"kind": kind, "value": value} for kind, value in self.addresses)
            case "beacon":
                yield from ({"beacon_key": key, "hidden": hidden} for key, hidden in self.tags.items())
            case "subject":
                yield from (
                    {"subject": subject} for subject in (*self.tags, *(PHONE + d for d in self.devices))
                )


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What was erased, without anything personal; times in unix milliseconds, `counts` rows by table."""

    receipt_id: str
    erased_at: int
    finished_at: int | None
    counts: dict[str, int]


_MARK: Final = " the key of erasure"  # no identifier begins with a blank
Counts: TypeAlias = dict[str, int]
_counts = msgspec.json.Decoder(Counts)
_device = msgspec.msgpack.Decoder(Device)
_event = msgspec.msgpack.Decoder(AppEvent)
_NO_CONTENT: Final = encode_content(PushContent(title="", body="", campaign_id="", expires_at=0))


# Who it is ------------------------------------------------------------------------------------------------


def gather(session: Session, profile_ids: Iterable[str], now: int, new_id: Callable[[], str]) -> Person:
    """Everything by which a person is to be found, given all of their profiles."""
    theirs = list(profile_ids)
    theirs += [row["profile_id"] for one in theirs for row in session.rows("erasure_called", profile_id=one)]
    profiles = {profile_id: new_id() for profile_id in theirs}
    person = Person(now, profiles, [], [], [], {})
    candidates = {one for profile in profiles for one in _candidates(session, profile)}
    person.identifiers = sorted(one for one in candidates if _is_theirs_alone(session, *one, profiles))
    person.anothers = sorted(
        {name for _, name in person.identifiers if _is_anothers(session, name, profiles)}
    )
    person.tags = {name: f"erased:{new_id()}" for id_type, name in person.identifiers if id_type == "beacon"}
    person.addresses = sorted(_addresses(session, person))
    person.contacts = sorted({one for profile in profiles for one in _contacts(session, profile, profiles)})
    return person


def _candidates(session: Session, profile_id: str) -> Iterator[tuple[str, str]]:
    """What a profile is or was known by, what was proven to go with it, and the devices it holds."""
    for query in ("erasure_edges", "erasure_claims"):
        yield from ((row["id_type"], row["id"]) for row in session.rows(query, profile_id=profile_id))
    for row in session.rows("erasure_devices", profile_id=profile_id):
        yield "device_id", row["device_id"]


def _is_theirs_alone(session: Session, id_type: str, name: str, profiles: Mapping[str, str]) -> bool:
    """Whether an identifier leads to nobody else, and never was proven to."""
    owner = session.row("profile_of_identifier", id_type=id_type, id=name)
    if owner is not None and owner["profile_id"] not in profiles:
        return False
    if owner is not None and id_type != "beacon":
        return True
    claimants = session.rows("erasure_claimants", id_type=id_type, id=name)
    return all(one["profile_id"] in profiles for one in claimants)


def _is_anothers(session: Session, name: str, profiles: Mapping[str, str]) -> bool:
    """Whether the name is somebody else's user id: `alias` takes one for an anonymous id of its sender."""
    owner = session.row("profile_of_identifier", id_type="user_id", id=name)
    return owner is not None and owner["profile_id"] not in profiles


def _addresses(session: Session, person: Person) -> set[tuple[str, str]]:
    """Of devices that are theirs alone, and of no device."""
    devices = set(person.devices)
    asked = [*((profile, None) for profile in person.profiles), *(("", device) for device in devices)]
    return {
        (row["kind"], row["value"])
        for profile, device in asked
        for row in session.rows("erasure_addresses", profile_id=profile, device_id=device)
        if row["device_id"] is None or row["device_id"] in devices
    }


def _contacts(session: Session, profile_id: str, profiles: Mapping[str, str]) -> Iterator[str]:
    """E-mail addresses and telephone numbers; one that a family shares is not this person's alone.

    Nor is one by which somebody else is known: whoever wrote it into a form proved nothing.
    """
    for row in session.rows("erasure_contacts", profile_id=profile_id):
        name, value = row["name"], msgspec.json.decode(row["value"])
        bearers = session.rows("erasure_trait_bearers", name=name, value=row["value"])
        if (
            isinstance(value, str)
            and value
            and all(one["profile_id"] in profiles for one in bearers)
            and _is_theirs_alone(session, name, as_kept(name, value), profiles)
        ):
            yield value


# The first transaction ------------------------------------------------------------------------------------


def begin(session: Session, keys: ErasureKeys, person: Person, receipt_id: str, nonce: bytes) -> None:
    """Tombstones first, then everything that makes the person known, reached or seen."""
    session.run("add_erasure", receipt_id=receipt_id, erased_at=person.erased_at, counts="{}")
    digests = {keys.digest(name) for name in person.names.difference(person.profiles)}
    session.many(
        "add_tombstone",
        [{"digest": one, "erased_at": person.erased_at, "receipt_id": receipt_id} for one in sorted(digests)],
    )
    counts: Counts = {}
    for personal in AT_ONCE:
        _erase(session, personal, person, counts)
    count(session, receipt_id, counts)
    put_work(session, keys, receipt_id, "history", person, nonce)


def put_work(
    session: Session, keys: ErasureKeys, receipt_id: str, step: str, person: Person, nonce: bytes
) -> None:
    """Says what is left to do."""
    sealed = keys.sealed(msgspec.msgpack.encode(person), nonce)
    session.run("put_erasure_work", receipt_id=receipt_id, step=step, work=sealed)


def work(session: Session, keys: ErasureKeys) -> tuple[str, str, Person] | None:
    """Receipt, step and person of the oldest erasure that is not finished. Raises SealBroken."""
    row = session.row("erasure_work")
    if row is None:
        return None
    return row["receipt_id"], row["step"], msgspec.msgpack.decode(keys.opened(row["work"]), type=Person)


def finish(session: Session, receipt_id: str, now: int) -> None:
    """Nothing is left, and nothing says whom it was about."""
    session.run("drop_erasure_work", receipt_id=receipt_id)
    session.run("finish_erasure", receipt_id=receipt_id, finished_at=now)


# Then, in chunks ------------------------------------------------------------------------------------------


def erase_history(session: Session, receipt_id: str, person: Person) -> bool:
    """A chunk of what a person did; False: none is left."""
    clock, counts, left = Budget(), Counts(), False
    for personal in HISTORY:
        for key in person.keys(personal.by):
            while not left and _run(session, personal, key, person, counts) >= CHUNK:
                left = clock.is_over
            left = left or clock.is_over
            if left:
                break
    count(session, receipt_id, counts)
    return left


def erase_sightings(session: Session, receipt_id: str, person: Person) -> bool:
    """A stretch of all sightings, those of the person's tags taken out; False: it was the last."""
    numbers = [row["key_number"] for hidden in person.tags.values() if (row := _number(session, hidden))]
    clock, counts, left = Budget(), Counts(), bool(numbers)
    while left and not clock.is_over:
        span = session.row("sightings_from", low=person.reached, limit=SIGHTINGS_AT_ONCE)
        left = span is not None and span["last"] is not None
        if span is None or not left:
            break
        for number in numbers:
            gone = session.run(
                "erase_sightings", low=person.reached, high=span["last"] + 1, key_number=number
            )
            counts["sightings"] = counts.get("sightings", 0) + gone
        person.reached = span["last"] + 1
    count(session, receipt_id, counts)
    if left:
        return True
    for number in numbers:  # hours last: until here seconds may have been thinned to them
        session.run("erase_sightings_without_time", key_number=number)
        gone = session.run("erase_sighting_hours", key_number=number, limit=CHUNK)
        count(session, receipt_id, {"sighting_hours": gone})
        if gone == CHUNK:
            return True
    for hidden in person.tags.values():
        session.run("drop_hidden_key", hidden=hidden)
    return False


def _number(session: Session, hidden: str) -> Row | None:
    return session.row("key_number_hidden", hidden=hidden)


def _erase(session: Session, personal: Personal, person: Person, counts: Counts) -> None:
    for key in person.keys(personal.by):
        _run(session, personal, key, person, counts)


def _run(session: Session, personal: Personal, key: dict[str, Any], person: Person, counts: Counts) -> int:
    values = {**key, "limit": CHUNK, "at": person.erased_at, "content": _NO_CONTENT}
    changed = session.run(personal.erase, **values)
    if changed:
        counts[personal.table] = counts.get(personal.table, 0) + changed
    return changed


def count(session: Session, receipt_id: str, more: Counts) -> None:
    """Adds to what the receipt says was deleted."""
    receipt = erasure_receipt(session, receipt_id)
    if receipt is not None and any(more.values()):
        total = {
            table: receipt.counts.get(table, 0) + more.get(table, 0) for table in {*receipt.counts, *more}
        }
        counts = msgspec.json.encode(dict(sorted(total.items()))).decode()
        session.run("put_erasure_counts", receipt_id=receipt_id, counts=counts)


class Budget:
    """How long a transaction may hold the writer."""

    def __init__(self, seconds: float = BUDGET_S) -> None:
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end


# What others' rows say of them ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hits:
    """Rows that mention a person, among those up to `reached`; `more`: there are others to come."""

    rows: list[Row]
    reached: Any
    more: bool


def events_mentioning(session: Session, traces: Traces, person: Person) -> Hits:
    """The next stretch of events."""
    rows = session.rows("events_to_search", after=person.reached, limit=SEARCHED_AT_ONCE)
    found: list[Row] = []
    if traces.in_rows(b"\n".join(map(_stored, rows))):
        found = [row for row in rows if traces.in_rows(_stored(row))]
    return _hits(found, rows, "event_id")


def forget_in_events(session: Session, receipt_id: str, person: Person, found: Iterable[Row]) -> None:
    """What claims to be theirs goes, with what it had said; in other people's their names are blacked out.

    Whatever happened after the erasure is the person's new beginning, and stays.
    """
    names, counts = frozenset(person.names), Counts()
    users = {name for id_type, name in person.identifiers if id_type in ("user_id", "claimed_user_id")}
    asked = [
        session.row("event_found", event_id=one["event_id"], erased_at=person.erased_at) for one in found
    ]
    rows = [row for row in asked if row is not None]
    for row in rows:
        event = _event_of(row)
        if event is not None and row["profile_id"] is not None:
            write_seen_by(session, row["profile_id"], event, row["event_hash"])
        if event is None or event.user_id in users:
            _forget_event(session, row, event)
        else:
            _black_out(session, row, event, names)
        counts["events"] = counts.get("events", 0) + 1
    count(session, receipt_id, counts)
    _ask_again(session, rows, person)


def _ask_again(session: Session, rows: Iterable[Row], person: Person) -> None:
    """Whoever is said to have done or been less than before may be in other segments."""
    profiles = {row["profile_id"] for row in rows if row["profile_id"] is not None}
    segments.ask_again(session, profiles.difference(person.profiles), person.erased_at)


def _event_of(row: Row) -> AppEvent | None:
    """None for one that nobody can read any more."""
    try:
        event = _event.decode(row["body"])
        if row["properties"]:
            return msgspec.structs.replace(event, properties=msgspec.json.decode(row["properties"]))
        return event
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _forget_event(session: Session, row: Row, event: AppEvent | None) -> None:
    session.run("drop_event", event_id=row["event_id"])
    if row["profile_id"] is not None and event is not None:
        session.run("drop_traits_of_event", profile_id=row["profile_id"], event_hash=row["event_hash"])
        forget_order_event(session, row["profile_id"], event, row["event_hash"])


def _black_out(session: Session, row: Row, event: AppEvent, names: frozenset[str]) -> None:
    plain = msgspec.to_builtins(event)
    properties = scrubbed(plain.pop("properties", {}), names)
    body = {
        key: None if key in _PLACES and value in names else scrubbed(value, names)
        for key, value in plain.items()
    }
    session.run(
        "rewrite_event",
        event_id=row["event_id"],
        body=msgspec.msgpack.encode({key: value for key, value in body.items() if value is not None}),
        properties=msgspec.json.encode(properties).decode() if properties else None,
    )


def devices_remembering(session: Session, person: Person) -> Hits:
    """The next stretch of devices."""
    rows = session.rows("devices_to_search", after=person.reached_text, limit=SEARCHED_AT_ONCE)
    traces = Traces(person.profiles)
    return _hits([row for row in rows if traces.in_rows(row["registers"])], rows, "device_id")


def forget_in_devices(session: Session, person: Person, rows: Iterable[Row]) -> None:
    """A device of several people forgets who of them was last."""
    for row in rows:
        device = _device.decode(row["registers"])
        proven, unproven = device.proven, device.unproven
        device = msgspec.structs.replace(
            device,
            proven=None if proven is not None and proven.profile_id in person.profiles else proven,
            unproven=None if unproven is not None and unproven.profile_id in person.profiles else unproven,
        )
        registers = msgspec.msgpack.encode(device)
        session.run("rewrite_device", device_id=row["device_id"], registers=registers)


def notes_mentioning(session: Session, table: Literal["audit", "alerts"], traces: Traces, after: int) -> Hits:
    """The next stretch of the audit, or of the alerts."""
    rows = session.rows(f"{table}_to_search", after=after, limit=SEARCHED_AT_ONCE)
    found = [row for row in rows if _named_in_note(traces, row)]
    return _hits(found, rows, "audit_id" if table == "audit" else "alert_id")


def _named_in_note(traces: Traces, row: Row) -> bool:
    subject = row["subject"]
    if subject in traces.names or subject.partition(":")[2] in traces.names:
        return True
    return traces.in_payload(f"{subject}\n{row['detail']}".encode("utf-8", "surrogatepass"))


def forget_in_notes(session: Session, table: Literal["audit", "alerts"], rows: Iterable[Row]) -> None:
    """That something happened stays; with whom does not."""
    key, query = ("audit_id", "rewrite_audit") if table == "audit" else ("alert_id", "rewrite_alert")
    detail = "{}" if table == "audit" else ERASED
    session.many(query, [{key: row[key], "subject": ERASED, "detail": detail} for row in rows])


def traits_mentioning(session: Session, traces: Traces, person: Person, after: tuple[str, str]) -> Hits:
    """The next stretch of what other people were said to be: `friend`, `recommended_by`."""
    behind = {"after": after[0], "after_name": after[1], "erased_at": person.erased_at}
    rows = session.rows("traits_to_search", **behind, limit=SEARCHED_AT_ONCE)
    found = [row for row in rows if traces.in_rows(row["value"].encode("utf-8", "surrogatepass"))]
    reached = (rows[-1]["profile_id"], rows[-1]["name"]) if rows else None
    return Hits(found, reached, len(rows) == SEARCHED_AT_ONCE)


def forget_in_traits(session: Session, person: Person, rows: Sequence[Row]) -> None:
    """The trait stays; the name in it does not."""
    for row in rows:
        before, key = row["value"], {"profile_id": row["profile_id"], "name": row["name"]}
        session.run("rewrite_trait", **key, value=_blacked_out(before, person), before=before)
    _ask_again(session, rows, person)


def forget_in_definitions(session: Session, traces: Traces, person: Person) -> None:
    """Audiences that ask for the person by name ask for nobody; there are some hundreds at most."""
    for row in session.rows("definitions_to_search"):
        if not traces.in_rows(row["definition"].encode("utf-8", "surrogatepass")):
            continue
        definition = _blacked_out(row["definition"], person)
        if _is_as_good(definition.encode(), row["definition"].encode(), parse_definition):
            key = {"segment_id": row["segment_id"], "version": row["version"]}
            session.run("rewrite_definition", **key, definition=definition)


def forget_in_campaigns(session: Session, traces: Traces, person: Person) -> None:
    """The same of campaigns, as they are and were: audiences, and texts that speak of somebody by name."""
    for row in session.rows("campaigns_to_search"):
        if not traces.in_rows(bytes(row["definition"])):
            continue
        definition = _without_names(msgspec.json.decode(row["definition"]), frozenset(person.names))
        if _is_as_good(definition, bytes(row["definition"]), parse_campaign):
            key = {"campaign_id": row["campaign_id"], "version": row["version"]}
            session.run("rewrite_campaign_version", **key, definition=definition)
            session.run("rewrite_campaign", **key, definition=definition)


def _is_as_good(after: bytes, before: bytes, parse: Callable[[bytes], object]) -> bool:
    """Whether taking a name out spoiled nothing; somebody may be called like a word of ours, such as
    `identifier`. What was saved when less was refused has its fault as before, and the name goes from it.
    """
    fault = _fault(after, parse)
    return fault is None or fault == _fault(before, parse)


def _fault(definition: bytes, parse: Callable[[bytes], object]) -> str | None:
    try:
        parse(definition)
    except (SegmentInvalid, CampaignInvalid) as error:
        return str(error)
    return None


def _without_names(campaign: dict[str, Any], names: frozenset[str]) -> bytes:
    """Of a template only the name goes: the rest of it is everybody's."""
    for offer in (campaign["offer"], *(variant["offer"] for variant in campaign.get("variants", ()))):
        for field, text in offer.items():
            offer[field] = without_names(text, names) if isinstance(text, str) else text
    return msgspec.json.encode(scrubbed(campaign, names))


def _blacked_out(text: str, person: Person) -> str:
    return msgspec.json.encode(scrubbed(msgspec.json.decode(text), frozenset(person.names))).decode()


def _stored(row: Row) -> bytes:
    return bytes(row["body"]) + (row["properties"] or "").encode("utf-8", "surrogatepass")


def _hits(found: list[Row], rows: list[Row], key: str) -> Hits:
    return Hits(found, rows[-1][key] if rows else None, len(rows) == SEARCHED_AT_ONCE)


def not_known_again(session: Session, person: Person) -> set[str]:
    """The names that nobody has by now: whoever registered anew leaves traces in their own right."""
    known = {
        name
        for id_type, name in person.identifiers
        if session.row("erasure_known_again", id_type=id_type, id=name)
    }
    known |= {
        value
        for kind, value in person.addresses
        if session.row("erasure_known_address", kind=kind, value=value)
    }
    known |= {value for value in person.contacts if _is_contact_again(session, value)}
    return person.names - known


def _is_contact_again(session: Session, value: str) -> bool:
    """Whether an address is a trait of somebody, or somebody is known by it."""
    text = msgspec.json.encode(value).decode()
    return any(
        session.rows("erasure_trait_bearers", name=name, value=text)
        or session.row("erasure_known_again", id_type=name, id=as_kept(name, value))
        for name in CONTACT_TRAITS
    )


# Receipts and tombstones ----------------------------------------------------------------------------------


def has_key(session: Session) -> bool:
    """Whether tombstones are made with some secret already."""
    return session.row("erasure_key_marks") is not None


def is_key(session: Session, keys: ErasureKeys) -> bool:
    """Whether these are the keys that tombstones are made with; the first ones to ask become them."""
    mark, known = keys.digest(_MARK), session.rows("erasure_key_marks")
    if not known:
        session.run("add_tombstone", digest=mark, erased_at=-1, receipt_id="")
    return all(bytes(row["digest"]) == mark for row in known)


def erasure_receipt(session: Session, receipt_id: str) -> ErasureReceipt | None:
    """One receipt."""
    row = session.row("erasure", receipt_id=receipt_id)
    return None if row is None else _receipt(row)


def erasure_receipts(session: Session, before: str, limit: int) -> list[ErasureReceipt]:
    """Receipts, the newest first, from before one."""
    return [_receipt(row) for row in session.rows("newest_erasures", before=before, limit=limit)]


def tombstones_of(session: Session, receipt_id: str) -> list[str]:
    """The hashes of the identifiers that were erased, in hexadecimal."""
    rows = session.rows("tombstones_of_erasure", receipt_id=receipt_id)
    return [bytes(row["digest"]).hex() for row in rows]


def newest_receipt(session: Session) -> str:
    """The id of the newest receipt; empty before the first."""
    row = session.row("newest_erasure")
    return str(row[0]) if row is not None and row[0] is not None else ""


def catch_up(session: Session, tombstones: Tombstones) -> None:
    """Teaches the tombstones in memory those that were set since."""
    newest = newest_receipt(session)
    if newest > tombstones.upto:
        rows = session.rows("tombstones_since", receipt_id=tombstones.upto)
        tombstones.learn({bytes(row["digest"]): row["erased_at"] for row in rows}, newest)


def _receipt(row: Row) -> ErasureReceipt:
    return ErasureReceipt(
        row["receipt_id"], row["erased_at"], row["finished_at"], _counts.decode(row["counts"])
    )
