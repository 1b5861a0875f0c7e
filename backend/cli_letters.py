"""The commands `footfall-backend dead-letters list|show|replay`; they ask the running backend."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from backend.cli_running import DEFAULT_CONFIG, ConfigOption, RunningBackend, TokenOption, UrlOption, fail

letters = typer.Typer(
    no_args_is_help=True, help="What could not be understood: look at it, and let it be tried once more."
)
PAGE = 100

ReasonOption = Annotated[
    str | None, typer.Option("--reason", help="Only those with exactly this reason, as `list` prints it.")
]
OriginOption = Annotated[
    str | None, typer.Option("--origin", help="Only those from here: app:<source>, or <store>/<gateway>.")
]


@letters.command("list")
def list_letters(
    api_token: TokenOption,
    reason: ReasonOption = None,
    origin: OriginOption = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = PAGE,
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Lists letters, the newest first: number, time, origin, events, bytes, failed replays, reason."""
    backend = RunningBackend.of(url, api_token, config)
    shown, before, page = 0, None, {}
    while shown < limit:
        page = _page(backend, reason, origin, before, min(PAGE, limit - shown))
        for letter in page["dead_letters"]:
            typer.echo(_line(letter))
        shown += len(page["dead_letters"])
        before = page["before"]
        if before is None:
            break
    typer.echo(f"{page['kept']} kept, {page['kept_bytes']} bytes; {page['fell_out']} ever fell out", err=True)


@letters.command("show")
def show(
    letter: Annotated[int, typer.Argument(help="Its number.")],
    api_token: TokenOption,
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Prints one letter with its content, as JSON."""
    told = RunningBackend.of(url, api_token, config).get(f"/api/dead-letters/{letter}")
    typer.echo(json.dumps(told, ensure_ascii=False, indent=1))


@letters.command("replay")
def replay(
    api_token: TokenOption,
    numbers: Annotated[list[int] | None, typer.Argument(help="Which; none with --all or --reason.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every letter there is.")] = False,
    reason: ReasonOption = None,
    origin: OriginOption = None,
    url: UrlOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Lets letters be tried once more; what is understood leaves them. Fails where some are still not, or
    where one that was named is not there.

    They go through the same checks as on their first day, with the time of their arrival; what was stored
    already under its message id is not stored again.
    """
    if bool(numbers) == (everything or reason is not None or origin is not None):
        fail("name letters by their numbers, or else by --reason, --origin or --all")
    backend = RunningBackend.of(url, api_token, config)
    done = _by_number(backend, numbers) if numbers else _by_filter(backend, reason, origin)
    counts: dict[str, int] = {}
    for one in done:
        counts[one["outcome"]] = counts.get(one["outcome"], 0) + 1
        if one["outcome"] != "replayed":
            typer.echo(f"{one['letter_id']}\t{one['outcome']}\t{one['reason'] or ''}".rstrip(), err=True)
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "there are none")
    if counts.keys() & ({"partly", "failed", "gone"} if numbers else {"partly", "failed"}):
        raise typer.Exit(1)


def _by_number(backend: RunningBackend, numbers: list[int]) -> list[dict[str, Any]]:
    """Each of them, though others should be gone: somebody may have replayed those, or they made room."""
    asked = ((number, f"/api/dead-letters/{number}/replay") for number in numbers)
    return [
        backend.post_if_there(path, {}) or {"letter_id": number, "outcome": "gone", "reason": None}
        for number, path in asked
    ]


def _by_filter(backend: RunningBackend, reason: str | None, origin: str | None) -> list[dict[str, Any]]:
    """In their order, so that each is tried once and those that fail again are passed."""
    done: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        asked = {"reason": reason, "origin": origin, "after": after}
        told = backend.post("/api/dead-letters/replay", asked)
        done += told["letters"]
        after = told["after"]
    return done


def _page(
    backend: RunningBackend, reason: str | None, origin: str | None, before: int | None, limit: int
) -> dict[str, Any]:
    asked = {"limit": limit, "before": before, "reason": reason, "origin": origin}
    given = {name: value for name, value in asked.items() if value is not None}
    return backend.get(f"/api/dead-letters?{urlencode(given)}")


def _line(letter: dict[str, Any]) -> str:
    came = datetime.fromtimestamp(letter["received_at"] / 1000, UTC).isoformat(timespec="seconds")
    told = (letter["letter_id"], came, letter["origin"], letter["events"], letter["bytes"], letter["tries"])
    return "\t".join(map(str, (*told, letter["reason"])))
