"""What came of the chaos: what was acknowledged, promised and delivered against what is stored. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.storage.accounts import Accounts, Offered
from simulators.chaos.crowd import Promises
from simulators.demo.ledger import Ledger, balance

UNFINISHED = frozenset({"queued", "claimed", "sending"})
MAY_HAVE_LEFT = frozenset({"accepted", "unknown"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen from outside the product.

    `acknowledged`: message ids answered 200; `heard`: adverts by gateway, all acknowledged; `delivered`:
    (push id, campaign, address) of every message in the FCM server's own log; `unanswered`: calls that are
    still waiting, or were refused.
    """

    acknowledged: Sequence[str]
    heard: Mapping[str, int]
    promises: Promises
    delivered: Sequence[tuple[str, str, str]]
    unanswered: int = 0


@dataclass(slots=True)
class Verdict:
    """How often something was lost, doubled, unfinished, or astray: sent to whom it must not, or said to be
    what it was not. `notes` name the first of each kind."""

    lost: int = 0
    doubled: int = 0
    unfinished: int = 0
    astray: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.unfinished or self.astray)

    def __str__(self) -> str:
        return f"lost {self.lost} doubled {self.doubled} unfinished {self.unfinished} astray {self.astray}"

    def count(self, what: str, why: str, found: Iterable[object]) -> None:
        """Adds those found to `what`, and notes three of them."""
        these = list(found)
        setattr(self, what, getattr(self, what) + len(these))
        if these:
            self.notes.append(f"{what}: {len(these)} {why}, such as {these[:3]}")


def judge(evidence: Evidence, accounts: Accounts, offered: Sequence[Offered]) -> Verdict:
    """Compares the two; `offered` has a row for each decision and each of its pushes."""
    verdict = Verdict()
    verdict.count("unfinished", "calls without a 200", range(evidence.unanswered))
    _judge_observations(verdict, evidence, accounts)
    _judge_offers(verdict, evidence.promises, offered)
    _judge_deliveries(verdict, evidence, offered)
    return verdict


def _judge_observations(verdict: Verdict, evidence: Evidence, accounts: Accounts) -> None:
    """Every event that was answered 200 and every advert of an acknowledged batch is there once."""
    stored = accounts.messages
    verdict.count("lost", "acknowledged events", (one for one in evidence.acknowledged if one not in stored))
    verdict.count("doubled", "stored events", _repeated(stored))
    held = dict(Counter(accounts.adverts) + Counter(accounts.forgotten))
    adverts = balance(Ledger(Counter(evidence.heard)), held)
    verdict.count("lost", "adverts", range(adverts.lost))
    verdict.count("doubled", "adverts", range(adverts.duplicates))


def _judge_offers(verdict: Verdict, promises: Promises, offered: Sequence[Offered]) -> None:
    """Whoever should get a push has one decision with one push, and it came to its end."""
    pushes = Counter((one.campaign_id, one.address) for one in offered if one.push_id is not None)
    verdict.count("lost", "promised pushes", promises.offers - pushes.keys())
    without = (one for one in offered if one.verdict == "sent" and one.push_id is None)
    verdict.count("lost", "decisions without a push", without)
    verdict.count("doubled", "pushes of one offer", _repeated(pushes))
    verdict.count("astray", "pushes that nobody was promised", pushes.keys() - promises.offers)
    verdict.count("unfinished", "pushes", (one for one in offered if one.state in UNFINISHED))


def _judge_deliveries(verdict: Verdict, evidence: Evidence, offered: Sequence[Offered]) -> None:
    """FCM's own count: nothing twice, nothing that is said not to have left, or to be accepted and is not."""
    times = Counter(push_id for push_id, _, _ in evidence.delivered)
    verdict.count("doubled", "pushes by FCM's count", _repeated(times))
    offers = Counter((campaign, address) for _, campaign, address in evidence.delivered)
    verdict.count("doubled", "offers by FCM's count", _repeated(offers))
    states = {one.push_id: one.state for one in offered}
    left = (one for one in times if states.get(one) not in MAY_HAVE_LEFT | UNFINISHED)
    verdict.count("astray", "pushes that left, and are said not to have", left)
    accepted = {push_id for push_id, state in states.items() if state == "accepted"}
    verdict.count("astray", "pushes said to be accepted that FCM never saw", accepted - times.keys())
    refusers = (address for _, _, address in evidence.delivered if address in evidence.promises.refused)
    verdict.count("astray", "pushes to people who said no", refusers)


def _repeated(times: Mapping[Any, int]) -> list[object]:
    """Each extra time of each."""
    return [one for one, count in times.items() for _ in range(count - 1)]
