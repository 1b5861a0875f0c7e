"""What came in since the process started, counted: from apps and sites, and from gateways."""

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.host import HOST
from backend.api.operations import operation


class BridgeTally(Struct):
    """Events of apps and sites: taken, sent before, buried as dead letters; sightings of beacons that are not
    ours; pixels that were answered and lost; requests refused, by the code of their answer."""

    accepted: int
    duplicates: int
    buried: int
    strangers: int
    pixels_lost: int
    refused: dict[str, int]


class TallyView(Struct):
    """Of this process alone, since it started. `gateways`: their messages, by what was found of them.

    `traits_left_out`: too long for a profile, or older than as many as it may have.
    """

    bridge: BridgeTally
    gateways: dict[str, int]
    traits_left_out: int = 0


@operation("operator", answer=TallyView)
async def get_tally(request: web.Request) -> TallyView:
    """What this process took in, refused and lost since it started."""
    return msgspec.convert(request.app[HOST].tally(), TallyView, from_attributes=True)


ROUTES = [web.get("/api/tally", get_tally)]
