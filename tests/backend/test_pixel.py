"""The pixel in a mail, asked of a whole backend: always the image, as long as the address may be."""

import base64
import json

import aiohttp
import pytest

from simulators.backend_alone import running_backend


@pytest.mark.parametrize("characters", [100, 30_000], ids=["short", "as long as an event may be"])
async def test_a_pixel_may_carry_a_whole_event(tmp_path, characters):
    async with running_backend(tmp_path) as backend, aiohttp.ClientSession(backend.url) as http:
        call = {"writeKey": backend.write_key, "userId": "u1", "event": "Mail Opened"}
        packed = json.dumps({**call, "properties": {"subject": "a" * characters}}).encode()
        data = base64.urlsafe_b64encode(packed).decode()
        async with http.get(f"/v1/pixel/track?data={data}") as answer:
            assert (answer.status, (await answer.read())[:6]) == (200, b"GIF89a")
        async with http.get("/health") as answer:
            assert (await answer.json())["status"] == "ok"
        path = "/api/profiles/user_id:u1"
        for _ in range(200):
            async with http.get(path, headers=backend.headers) as answer:
                if answer.status == 200:
                    return
        pytest.fail("the event was not taken")
