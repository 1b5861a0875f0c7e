"""One person: what is known, and through which identifiers."""

from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from backend.api.auth import STATE
from backend.api.errors import Problem
from backend.api.operations import operation
from backend.api.parameters import text
from backend.storage import profiles


class DeviceView(Struct):
    """A device that the person holds; `last_seen_at` in unix milliseconds."""

    device_id: str
    platform: str | None
    last_seen_at: int


class PushAddressView(Struct):
    """That pushes reach the person, and where; not the address itself. Unix milliseconds."""

    kind: str
    platform: str | None
    last_seen_at: int


class IdentityView(Struct):
    """An identifier that leads to the person, since when (unix milliseconds), and why."""

    type: str
    id: str
    since: int
    cause: str


class MergedView(Struct):
    """A profile that turned out to be the same person, and when (unix milliseconds)."""

    profile_id: str
    since: int | None


class ProfileView(Struct):
    """Everything known of one person."""

    profile_id: str
    identified: bool
    traits: dict[str, Any]
    consents: dict[str, bool]
    devices: list[DeviceView]
    push_addresses: list[PushAddressView]
    identities: list[IdentityView]
    merged: list[MergedView]


WHO = text(
    "who",
    "An identifier of the person as `type:id`, such as `user_id:4711`, `device_id:…` or `beacon:…`.",
    pattern=r"[^:\x00-\x1f\x7f]{1,64}:[^\x00-\x1f\x7f]{1,512}",
    must="type:id, such as user_id:4711",
)


@operation("viewer", takes=(WHO,), answer=ProfileView, errors=(404,))
async def get_profile(request: web.Request) -> ProfileView:
    """One person: what is known, and through which identifiers."""
    id_type, _, identifier = WHO.of(request).partition(":")
    found = await request.app[STATE].read(lambda s: profiles.profile_view(s, id_type, identifier))
    if found is None:
        raise Problem(404, "profile", f"nobody is known as {id_type}:{identifier}")
    return msgspec.convert(found, ProfileView)


ROUTES = [web.get("/api/profiles/{who}", get_profile)]
