"""RFM: running it, what its runs found, who is in which cell, and one person's scores over time."""

from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.host import change
from backend.api.operations import operation, reply
from backend.api.parameters import LIMIT
from backend.api.people import WHO
from backend.scoring import Scorer
from backend.segments.rfm import CELLS
from backend.storage import profiles
from backend.storage import rfm as rfm_rows
from backend.storage.session import Session

SCORER = web.AppKey("scorer", Scorer)
MIXED = "the orders are in several currencies, or say none; monetary adds their amounts as they stand"


class Accepted(Struct):
    """The run begins; `GET /api/rfm/runs` tells how far it is."""

    accepted: bool


class RfmBounds(Struct):
    """The values above which somebody scores 2, 3, 4 and 5."""

    recency: list[int] = []
    frequency: list[int] = []
    monetary: list[int] = []


class Run(Struct):
    """A run of scoring: over how many people and orders, whose scores changed, and the bounds it found.

    Times are unix milliseconds, `monetary` is in hundredths; `finished_at` is null while it runs.
    `currencies` says how many orders with an amount were in each (the empty one: none was said).
    Amounts are added as they stand; where that mixes currencies, `warning` says so.
    """

    run_id: int
    started_at: int
    finished_at: int | None
    people: int
    orders: int
    changed: int
    thresholds: RfmBounds
    currencies: dict[str, int]
    warning: str | None


class Running(Struct):
    """How far the present run is: of `people` whose scores change, `written` are stored.

    `run_id` is null for the moment until a run that was asked for has its number.
    """

    run_id: int | None
    people: int
    written: int


class Runs(Struct):
    """The newest runs, and the one that goes on."""

    running: Running | None
    runs: list[Run]


class Cell(Struct):
    """How many people have these scores of recency and frequency, under this name."""

    name: str
    r: int
    f: int
    people: int


class Named(Struct):
    """A cell of recency, frequency and money, and its name."""

    r: int
    f: int
    m: int
    name: str


class Matrix(Struct):
    """Who is where now, and what all 125 cells are called."""

    people: list[Cell]
    names: list[Named]


class Scores(Struct):
    """One person's scores since a run; null where there were no orders any more."""

    run_id: int
    r: int | None
    f: int | None
    m: int | None
    name: str | None
    scored_at: int


class PersonScores(Struct):
    """A person's scores now, and how they changed, the newest first."""

    profile_id: str
    now: Scores | None
    history: list[Scores]


@operation("marketer", answer=Accepted, status=202)
async def post_rfm_run(request: web.Request) -> web.Response:
    """Scores everybody's purchases anew, beside everything else that goes on."""
    await change(request, "scores asked for", "rfm", lambda _: None)
    request.app[SCORER].request()
    return reply(Accepted(True), 202)


@operation("viewer", takes=(LIMIT,), answer=Runs)
async def get_rfm_runs(request: web.Request) -> Runs:
    """The newest runs with their bounds, and how far the present one is."""
    limit = LIMIT.of(request)
    rows = await request.app[STATE].read(lambda session: rfm_rows.runs(session, limit))
    progress = request.app[SCORER].progress
    running = None if progress is None else Running(progress.run_id, progress.people, progress.written)
    return Runs(running, [_run(dict(row)) for row in rows])


@operation("viewer", answer=Matrix)
async def get_rfm(request: web.Request) -> Matrix:
    """How many people are in which cell, and every cell's name."""
    rows = await request.app[STATE].read(lambda session: [dict(row) for row in session.rows("rfm_names")])
    return Matrix(
        msgspec.convert(rows, list[Cell]), [Named(*cell, name) for cell, name in sorted(CELLS.items())]
    )


@operation("viewer", takes=(WHO, LIMIT), answer=PersonScores, errors=(404,))
async def get_profile_rfm(request: web.Request) -> PersonScores:
    """One person's scores, and how they changed."""
    who, limit = WHO.of(request), LIMIT.of(request)
    id_type, _, identifier = who.partition(":")

    def read(session: Session) -> PersonScores | None:
        person = profiles.resolve(session, id_type, identifier)
        if person is None:
            return None
        now = session.row("rfm_score_of", profile_id=person)
        history = session.rows("rfm_changes_of", profile_id=person, limit=limit)
        return PersonScores(
            person, Scores(**dict(now)) if now else None, [Scores(**dict(row)) for row in history]
        )

    found = await request.app[STATE].read(read)
    if found is None:
        raise Problem(404, "profile", f"nobody is known as {who}")
    return found


def _run(row: dict[str, Any]) -> Run:
    currencies = msgspec.json.decode(row.pop("currencies"), type=dict[str, int])
    thresholds = msgspec.json.decode(row.pop("thresholds"), type=RfmBounds)
    warning = MIXED if len(currencies) > 1 else None
    return Run(**row, thresholds=thresholds, currencies=currencies, warning=warning)


ROUTES = [
    web.post("/api/rfm/runs", post_rfm_run),
    web.get("/api/rfm/runs", get_rfm_runs),
    web.get("/api/rfm", get_rfm),
    web.get("/api/profiles/{who}/rfm", get_profile_rfm),
]
