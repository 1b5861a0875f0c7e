"""One person: what is known, through which identifiers."""

from aiohttp import web

from backend.api.auth import STATE, needs
from backend.api.errors import Problem
from backend.storage import profiles


@needs("viewer")
async def get_profile(request: web.Request) -> web.Response:
    id_type, colon, identifier = request.match_info["who"].partition(":")
    if not colon or not identifier or len(identifier) > 512:
        raise Problem(400, "profile", "name the person as type:id, such as user_id:4711")
    found = await request.app[STATE].read(lambda s: profiles.profile_view(s, id_type, identifier))
    if found is None:
        raise Problem(404, "profile", f"nobody is known as {id_type}:{identifier}")
    return web.json_response(found)


ROUTES = [web.get("/api/profiles/{who}", get_profile)]
