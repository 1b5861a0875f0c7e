"""Plays the chaos: people come, blows fall, everything settles, and what came of it is reckoned up."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from backend.storage.accounts import read_shared_accounts
from simulators.chaos.crowd import Crowd, set_up
from simulators.chaos.reckoning import UNFINISHED, Evidence, Verdict, judge
from simulators.chaos.stage import Stage, open_stage
from simulators.chaos.strikes import Recoveries, change_moods, set_mood, strike_on
from simulators.demo.reckoning import read_deliveries

PEOPLE_A_SECOND = 4.0
SETTLE_S = 60.0  # beyond the life of the last offer: then what is missing is lost
DRAIN_S = 60.0  # for the last calls and batches
OFFER_LIFE_S = 150  # what a phone could not tell for so long makes no offer: no blow may last as long
TOLD_EVERY_S = 15.0


@dataclass(slots=True)
class Outcome:
    """The verdict, and what it rests on."""

    verdict: Verdict
    people: int = 0
    events: int = 0
    adverts: int = 0
    seconds: float = 0.0
    fell: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    pushes: Counter[str] = field(default_factory=Counter)
    suppressed: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    recoveries: Recoveries = field(default_factory=Recoveries)

    def table(self) -> list[str]:
        """Lines for people."""
        worst, after = self.recoveries.worst
        lines = [
            f"killed: {_counts(self.kills)}; replicas that ended by themselves: {self.fell}",
            f"FCM answered: {_counts(self.faults)}; it took {self.delivered} pushes",
            f"{self.people} people, {self.events:,} events and {self.adverts:,} adverts acknowledged;"
            f" pushes: {_counts(self.pushes)}; decided against: {_counts(self.suppressed)}",
        ]
        for what, times in sorted(self.recoveries.after.items()):
            median = statistics.median(times)
            lines.append(
                f"  {what}: {len(times)} times, whole after {median:.1f} s, at worst {max(times):.1f} s"
            )
        lines.append(f"worst recovery {worst:.1f} s ({after}); {self.seconds / 60:.1f} minutes")
        return [*lines, *self.verdict.notes]


async def play(folder: Path, seconds: float, seed: int, say: Callable[[str], None]) -> Outcome:
    """`seconds` of chaos, then peace until everything has settled. Raises Stuck, ChildFailed."""
    began, dice = time.monotonic(), Random(seed)
    async with open_stage(folder) as stage:
        source = await set_up(await stage.shopkeeper(), OFFER_LIFE_S)
        say(f"two replicas, {stage.broker.kind}, PostgreSQL and FCM are up")
        async with Crowd(stage, source["write_key"], source["proof_secret"], _lot(dice)) as crowd:
            recoveries = await _strike(stage, crowd, dice, seconds, say)
            say(f"no more blows; {crowd.people} people's calls, adverts and pushes settle")
            verdict = await _settle(stage, crowd, folder, time.monotonic() + OFFER_LIFE_S + SETTLE_S, say)
            outcome = await _tell_of(stage, crowd, verdict, recoveries)
    outcome.seconds = time.monotonic() - began
    return outcome


async def _strike(
    stage: Stage, crowd: Crowd, dice: Random, seconds: float, say: Callable[[str], None]
) -> Recoveries:
    """People, blows and moods side by side; whatever fails ends all of it."""
    recoveries = Recoveries()
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(change_moods(stage, _lot(dice), seconds)),
            group.create_task(_tell(stage, crowd, recoveries, say)),
        ]
        coming = group.create_task(crowd.arrive(PEOPLE_A_SECOND))
        await strike_on(stage, _lot(dice), seconds, recoveries)
        crowd.welcome = False
        await coming
        for task in beside:
            task.cancel()
    await set_mood(stage, "clear")
    return recoveries


async def _tell(stage: Stage, crowd: Crowd, recoveries: Recoveries, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(TOLD_EVERY_S)
        stats = await stage.fcm_says("/sim/stats")
        say(
            f"{crowd.people} people, {stats['accepted']} pushes taken by FCM; killed: {_counts(stage.kills)};"
            f" worst recovery {recoveries.worst[0]:.1f} s"
        )


async def _settle(
    stage: Stage, crowd: Crowd, folder: Path, until: float, say: Callable[[str], None]
) -> Verdict:
    """Waits until there is nothing more to wait for, closes the doors in between, and judges."""
    told_at = time.monotonic()
    while (waiting := await _promises_left(stage, crowd)) and time.monotonic() < until:
        if time.monotonic() - told_at > TOLD_EVERY_S:
            told_at = time.monotonic()
            say(f"{len(waiting)} offers are waited for, such as {min(waiting)}")
        await asyncio.sleep(1.0)
    crowd.close_doors()
    until = max(until, time.monotonic() + DRAIN_S)
    while not crowd.delivered and time.monotonic() < until:  # noqa: ASYNC110 - other processes answer
        await asyncio.sleep(0.2)
    verdict = await _judge(stage, crowd, folder)
    while not verdict.is_clean and time.monotonic() < until:
        await asyncio.sleep(1.0)
        verdict = await _judge(stage, crowd, folder)
    return verdict


async def _promises_left(stage: Stage, crowd: Crowd) -> set[tuple[str, str]]:
    """Whose push has not come to its end: (campaign, address)."""
    _, offered = await asyncio.to_thread(read_shared_accounts, stage.database)
    kept = {(one.campaign_id, one.address or "") for one in offered if one.state not in UNFINISHED}
    return crowd.promises.offers - kept


async def _judge(stage: Stage, crowd: Crowd, folder: Path) -> Verdict:
    accounts, offered = await asyncio.to_thread(read_shared_accounts, stage.database)
    delivered = [
        (line["push_id"], line["message"]["data"]["campaign_id"], line["value"])
        for line in read_deliveries(folder / "fcm" / "messages.jsonl")
    ]
    evidence = Evidence(crowd.acknowledged, crowd.heard, crowd.promises, delivered, crowd.unanswered)
    return judge(evidence, accounts, offered)


async def _tell_of(stage: Stage, crowd: Crowd, verdict: Verdict, recoveries: Recoveries) -> Outcome:
    accounts, offered = await asyncio.to_thread(read_shared_accounts, stage.database)
    stats = await stage.fcm_says("/sim/stats")
    return Outcome(
        verdict,
        people=crowd.people,
        events=len(crowd.acknowledged),
        adverts=sum(crowd.heard.values()),
        fell=sum(replica.fell for replica in stage.replicas),
        kills=stage.kills,
        faults=Counter({kind: n for kind, n in stats["answers"].items() if kind != "ACCEPTED"}),
        pushes=Counter(accounts.pushes),
        suppressed=Counter(one.reason for one in offered if one.verdict == "suppressed"),
        delivered=stats["accepted"],
        recoveries=recoveries,
    )


def _lot(dice: Random) -> Random:
    """Lots of its own for each part, or one's delay would change the other's."""
    return Random(dice.getrandbits(64))


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counted.most_common()) or "nothing"
