"""Operators look at what could not be understood, and let it be tried once more."""

import re
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from backend.api.errors import Problem
from backend.api.host import HOST, change
from backend.api.operations import operation
from backend.api.parameters import LIMIT, text, whole
from backend.dead_letters import DeadLetterDesk, Outcome
from backend.storage import letters
from backend.storage.letters import Letter
from sdk_bridge.server.letters import read_again
from sdk_bridge.server.ports import Source
from sdk_bridge.server.refusals import Refusal
from sdk_bridge.wire.app_events import decode_events
from sdk_bridge.wire.codec import WireError, decode_up, to_json_object

LETTERS = web.AppKey("dead letters", DeadLetterDesk)
MAX_REPLAYED = 100  # in one request, so that none lasts for minutes; the command asks again
_HIGHEST = 2**53
_ANYBODY = Source("", "server", "off", "")

LETTER = whole("letter", "The letter's number.", least=1, most=_HIGHEST)
BEFORE = whole("before", "Only letters older than this one.", least=1, most=_HIGHEST, default=None)
REASON = text("reason", "Only those with exactly this reason.", default=None)
ORIGIN = text("origin", "Only those from here: `app:<source>` or `<store>/<gateway>`.", default=None)
# The proof of a user stays valid for ever; whoever reads letters is not to take it from there.
_PROOF = re.compile(r'("userHash"\s*:\s*")[^"]*"')


class DeadLetter(Struct):
    """Something that could not be understood, without its content. Times are unix milliseconds.

    `form`: a `batch` of calls as apps send them, with `events` of them; an `entry` of the journal that could
    not be folded; a gateway's `message`; or `old`, kept by an earlier version. `tries`: replays that failed.
    """

    letter_id: int
    received_at: int
    origin: str
    source: str | None
    form: str
    reason: str
    events: int
    bytes: int
    tries: int
    tried_at: int | None


class DeadLetters(Struct):
    """A page of letters, the newest first; `before` gets the next one. `fell_out`: how many are lost."""

    dead_letters: list[DeadLetter]
    before: int | None
    kept: int
    kept_bytes: int
    fell_out: int


class DeadLetterContent(Struct):
    """A letter with what it holds: as JSON where it can be read as that, else as text, or in hexadecimal.

    `reads_now`: whether it could be understood by now, as far as that can be told without trying.
    """

    letter_id: int
    received_at: int
    origin: str
    form: str
    reason: str
    tries: int
    reads_now: bool
    content: Any


class Replayed(Struct):
    """What became of a letter: `replayed`, `partly`, `failed` for this reason, or `gone` meanwhile."""

    letter_id: int
    outcome: Outcome
    reason: str | None


class ReplayMany(Struct, forbid_unknown_fields=True):
    """Which letters to try: those with this reason, from this origin, numbered above `after`."""

    reason: Annotated[str, Meta(max_length=1_000)] | None = None
    origin: Annotated[str, Meta(max_length=1_000)] | None = None
    after: Annotated[int, Meta(ge=0, le=2**53)] = 0  # a database's integers end somewhere


class ReplayedMany(Struct):
    """At most a hundred, the oldest first; `after` gets the next ones, None when there are no more."""

    letters: list[Replayed]
    after: int | None


@operation("operator", takes=(LIMIT, BEFORE, REASON, ORIGIN), answer=DeadLetters)
async def get_dead_letters(request: web.Request) -> DeadLetters:
    """Lists what could not be understood, without its content."""
    limit = LIMIT.of(request)
    asked: dict[str, Any] = {"limit": limit, "before": BEFORE.of(request)}
    asked |= {"reason": REASON.of(request), "origin": ORIGIN.of(request)}
    rows, room = await request.app[HOST].journal.read(
        lambda s: ([dict(row) for row in s.rows("dead_letters_newest", **asked)], letters.room(s))
    )
    found = msgspec.convert(rows, list[DeadLetter])
    before = found[-1].letter_id if len(found) == limit else None
    return DeadLetters(found, before, room.letters, room.bytes, room.fell_out)


@operation("operator", takes=(LETTER,), answer=DeadLetterContent, errors=(404,))
async def get_dead_letter(request: web.Request) -> DeadLetterContent:
    """Shows one letter with its content, but for the proofs of users in it."""
    letter_id = LETTER.of(request)
    letter = await request.app[HOST].journal.read(lambda s: letters.letter_of(s, letter_id))
    if letter is None:
        raise _no_letter(letter_id)
    reads, content = _content(letter)
    return DeadLetterContent(
        letter.letter_id,
        letter.received_at,
        letter.origin,
        letter.form,
        letter.reason,
        letter.tries,
        reads,
        content,
    )


@operation("operator", takes=(LETTER,), answer=Replayed, errors=(404,))
async def post_replay(request: web.Request) -> Replayed:
    """Tries one letter once more.

    It goes through the same checks as on its first day, with the time of its arrival. What is understood
    leaves the letters; what is not stays, with the new reason.
    """
    letter_id = LETTER.of(request)
    done = await request.app[LETTERS].replay(letter_id)
    if done.outcome == "gone":
        raise _no_letter(letter_id)
    await _note(request, str(letter_id), {done.outcome: 1})
    return Replayed(done.letter_id, done.outcome, done.reason)


@operation("operator", body=ReplayMany, without=ReplayMany(), answer=ReplayedMany)
async def post_replay_many(request: web.Request, body: ReplayMany) -> ReplayedMany:
    """Tries many letters once more, the oldest first, at most a hundred in one call."""
    asked = {"reason": body.reason, "origin": body.origin, "after": body.after, "limit": MAX_REPLAYED}
    found = await request.app[HOST].journal.read(
        lambda s: [row["letter_id"] for row in s.rows("letters_to_replay", **asked)]
    )
    done = [await request.app[LETTERS].replay(letter_id) for letter_id in found]
    outcomes = [one.outcome for one in done]
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    if done:
        await _note(request, body.reason or body.origin or "all", counts)
    after = found[-1] if len(found) == MAX_REPLAYED else None
    return ReplayedMany([Replayed(one.letter_id, one.outcome, one.reason) for one in done], after)


async def _note(request: web.Request, subject: str, counts: dict[Outcome, int]) -> None:
    await change(request, "dead letters replayed", subject[:200], lambda _: None, counts)


def _content(letter: Letter) -> tuple[bool, Any]:
    """Whether it can be read by now, and what it holds."""
    try:
        if letter.form == "message":
            return True, to_json_object(decode_up(letter.payload))
        if letter.form == "entry" and letter.source is not None:
            return True, [_without_nulls(event) for event in decode_events(letter.payload)]
        if letter.form == "entry":
            return True, to_json_object(decode_up(letter.payload))
    except WireError:
        return False, letter.payload.hex()
    try:
        return _reads_now(letter), _PROOF.sub(r'\1…"', letter.payload.decode())
    except UnicodeDecodeError:
        return False, letter.payload.hex()


def _reads_now(letter: Letter) -> bool:
    """Whether a batch could be understood by now; who the user is does not matter for that."""
    if letter.form != "batch":
        return False
    try:
        return not read_again(letter.payload, _ANYBODY, letter.received_at, lambda: "")[1]
    except Refusal:
        return False


def _without_nulls(event: Any) -> Any:
    return {key: value for key, value in msgspec.to_builtins(event).items() if value is not None}


def _no_letter(letter_id: int) -> Problem:
    return Problem(
        404, "letter", f"there is no dead letter {letter_id}; it was replayed, or had to make room"
    )


ROUTES = [
    web.get("/api/dead-letters", get_dead_letters),
    web.get("/api/dead-letters/{letter:[0-9]+}", get_dead_letter),
    web.post("/api/dead-letters/replay", post_replay_many),
    web.post("/api/dead-letters/{letter:[0-9]+}/replay", post_replay),
]
