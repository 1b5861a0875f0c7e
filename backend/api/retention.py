"""What is kept for how long: how far the thinning is, and a run at once."""

from aiohttp import web
from msgspec import Struct

from backend.api.host import change
from backend.api.operations import operation, reply
from backend.retention import Retention
from backend.storage.retention import RULES, Job, Rule

RETENTION = web.AppKey("retention", Retention)


class RetentionAccepted(Struct):
    """The run begins; `GET /api/retention` tells how far it is."""

    accepted: bool


class Kept(Struct):
    """One kind of rows: kept for `days` (0: for good); its last run, or the one that goes on.

    Times are unix milliseconds, null before the first run; `finished_at` is null while rows are left. Of
    `rows_found`, which are older than `before_at`, `rows_done` are thinned, forgotten or emptied.
    """

    kind: str
    days: int
    begun_at: int | None
    finished_at: int | None
    before_at: int | None
    rows_found: int
    rows_done: int


class KeptRows(Struct):
    """Every kind; `at_work` names the one that is being worked off, null between runs."""

    at_work: str | None
    kinds: list[Kept]


@operation("viewer", answer=KeptRows)
async def get_retention(request: web.Request) -> KeptRows:
    """What is kept for how long, and how far the thinning is."""
    retention = request.app[RETENTION]
    jobs = await retention.jobs()
    kinds = [_kept(rule, retention.days_of(rule), jobs.get(rule.kind)) for rule in RULES]
    return KeptRows(retention.at_work, kinds)


@operation("admin", answer=RetentionAccepted, status=202)
async def post_retention_run(request: web.Request) -> web.Response:
    """Thins and forgets now what is too old, beside everything else that goes on."""
    await change(request, "retention asked for", "retention", lambda _: None)
    request.app[RETENTION].request()
    return reply(RetentionAccepted(True), 202)


def _kept(rule: Rule, days: int, job: Job | None) -> Kept:
    if job is None:
        return Kept(rule.kind, days, None, None, None, 0, 0)
    return Kept(rule.kind, days, job.begun_at, job.finished_at, job.before_at, job.rows_found, job.rows_done)


ROUTES = [web.get("/api/retention", get_retention), web.post("/api/retention/run", post_retention_run)]
