"""The demo counts what it did: every advert that reached a gateway is in the ledger, also at closing time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from simulators.demo.ledger import Ledger
from simulators.demo.play import run
from simulators.shop import Shop


class SlowRadio:
    """Hears at once and answers late, as BlueZ does while its bus has to be waited for."""

    def __init__(self) -> None:
        self.heard = 0
        self.hearing = asyncio.Event()

    async def advertise(self, *_: Any, **__: Any) -> bool:
        self.heard += 1
        self.hearing.set()
        await asyncio.sleep(1.0)
        return True


class NobodyAnswers:
    def request(self, *_: Any, **__: Any) -> Any:
        raise aiohttp.ClientConnectionError("down on purpose")


def opened(radio: SlowRadio, seconds: float | None) -> Any:
    """A shop of fixed beacons that has just been set up, with one radio for all of its gateways."""
    shop = Shop.demo(seed=7, shoppers=0, strangers=0)
    scene = SimpleNamespace(
        page="http://shop.test/floor#token=t", tell=lambda _: None, started=0.0, down=set(), opened=0
    )
    return SimpleNamespace(
        script=SimpleNamespace(seconds=seconds, chaos=False),
        shop=shop,
        scene=scene,
        session=NobodyAnswers(),
        url="http://shop.test",
        programs={},
        radios=dict.fromkeys(shop.gateways, radio),
        ledger=Ledger(),
        registered_at=0.0,
        stop=asyncio.Event(),
    )


@pytest.mark.parametrize("seconds", [1.0, None], ids=["its time is up", "somebody presses Ctrl-C"])
async def test_an_advert_on_its_way_when_the_shop_closes_is_counted(seconds):
    radio = SlowRadio()
    stage = opened(radio, seconds)
    phones, screen = SimpleNamespace(opened=0), SimpleNamespace(draw=lambda: None)
    running = asyncio.create_task(run(stage, phones, screen))
    await asyncio.wait_for(radio.hearing.wait(), 10)
    if seconds is None:
        stage.stop.set()
    await asyncio.wait_for(running, 10)
    assert radio.heard > 0
    assert stage.ledger.total == radio.heard


class Program:
    """A child process as the demo sees it."""

    def __init__(self) -> None:
        self.kills, self.runs = 0, True

    async def kill(self) -> None:
        self.kills, self.runs = self.kills + 1, False

    def start(self) -> None:
        self.runs = True

    def check(self) -> None:
        pass


async def test_what_was_killed_runs_again_when_the_shop_closes_meanwhile():
    """Else what a gateway held would never arrive, and be told as lost."""
    stage = opened(SlowRadio(), 0.5)
    stage.script.chaos, stage.script.seed, stage.programs["backend"] = True, 7, Program()
    phones, screen = SimpleNamespace(opened=0), SimpleNamespace(draw=lambda: None)
    await asyncio.wait_for(run(stage, phones, screen), 20)
    assert (stage.programs["backend"].kills, stage.programs["backend"].runs) == (1, True)
    assert stage.scene.down == set()
