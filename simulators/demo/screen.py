"""The demo on a terminal: who is where, what was pushed and opened. Plain lines where there is none."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rich.align import Align
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 5.0  # a log file wants a line now and then, not a picture four times a second
STYLES = {
    "accepted": "yellow",
    "opened": "bold green",
    "suppressed": "dim",
    "rejected": "red",
    "unknown": "red",
}


@dataclass(slots=True)
class Scene:
    """What the screen shows; the demo fills it in as things happen."""

    page: str = ""
    started: float = field(default_factory=time.monotonic)
    ends_after_s: float | None = None
    floor: Mapping[str, Any] = field(default_factory=dict)
    adverts: int = 0
    truth: Mapping[str, int] = field(default_factory=dict)
    outside: int = 0
    opened: int = 0
    news: list[str] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    def tell(self, line: str) -> None:
        """Adds a line to the news; the oldest scrolls away."""
        self.news.append(f"{time.monotonic() - self.started:5.1f} s  {line}")
        del self.news[:-8]


class Screen(AbstractContextManager["Screen"]):
    """Draws the scene when told to."""

    def __init__(self, scene: Scene, console: Console | None = None) -> None:
        self._scene = scene
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._plain_at = 0.0

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self) -> None:
        """Shows the scene as it is now."""
        if self._console.is_terminal:
            self._live.update(picture(self._scene))
        elif time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            self._console.print(_line(self._scene), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays, above the picture."""
        self._console.print(text, highlight=False, soft_wrap=True)


def picture(scene: Scene) -> RenderableType:
    """The whole screen."""
    zones = [_zone(zone, scene) for zone in scene.floor.get("zones", ())]
    return Group(
        _head(scene),
        Columns(zones, equal=True, expand=True),
        Columns([_offers(scene.floor.get("pushes", ())), _gateways(scene)], expand=True),
        Panel(Text("\n".join(scene.news) or "…"), title="news", border_style="dim"),
    )


def _head(scene: Scene) -> RenderableType:
    ran = time.monotonic() - scene.started
    of = f" of {scene.ends_after_s:.0f}" if scene.ends_after_s else ""
    text = Text.assemble(
        ("Footfall demo  ", "bold"),
        f"{ran:.0f}{of} s · {scene.adverts:,} adverts heard · {scene.outside} shoppers outside · ",
        (f"{scene.opened} offers opened", "bold green"),
        (" · Ctrl-C ends", "dim"),
    )
    return Align.left(text)


def _zone(zone: Mapping[str, Any], scene: Scene) -> RenderableType:
    people = [person for person in scene.floor.get("people", ()) if person["zone_id"] == zone["zone_id"]]
    crowd = Text()
    for person in people:
        style = "bold green" if person["opened"] else "yellow" if person["pushes"] else "default"
        crowd.append("● ", style)
    truly = scene.truth.get(zone["zone_id"], 0)
    count = Text(f"\n{len(people)} seen, {truly} truly there · {zone['entries']} entered", "dim")
    return Panel(Group(crowd or Text("nobody", "dim"), count), title=zone["name"])


def _offers(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(title="latest offers", expand=True, box=None)
    for column in ("campaign", "person", "state"):
        table.add_column(column)
    for row in rows[:6]:
        state = "opened" if row["opened_at"] else row["state"]
        table.add_row(row["campaign_id"], row["profile_id"][-6:], Text(state, STYLES.get(state, "default")))
    return table


def _gateways(scene: Scene) -> RenderableType:
    table = Table(title="gateways", expand=True, box=None)
    for column in ("gateway", "state", "waiting"):
        table.add_column(column)
    for row in scene.floor.get("gateways", ()):
        silent = row["heard_ago_ms"] > 8000
        state = f"silent {row['heard_ago_ms'] // 1000} s" if silent else row["report"]["scan"]
        table.add_row(
            row["gateway"],
            Text(state, "red" if silent else "green"),
            f"{row['report']['outbox_batches']} batches",
        )
    return table


def _line(scene: Scene) -> str:
    people = len(scene.floor.get("people", ()))
    ran = time.monotonic() - scene.started
    newest = scene.news[-1].strip() if scene.news else "starting"
    return (
        f"[{ran:3.0f} s] {scene.adverts} adverts, {people} people on the floor, "
        f"{len(scene.floor.get('pushes', ()))} recent offers, {scene.opened} opened · {newest}"
    )
