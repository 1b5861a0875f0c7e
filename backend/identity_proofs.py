"""What the bridge proves identities with besides hashes: Firebase's ID tokens, and link tokens of our own."""

import asyncio
import secrets
from dataclasses import dataclass
from functools import partial

import aiohttp

from backend.config import Config
from backend.profiles.links import LinkSeal
from backend.secret_file import SECRET_BYTES, kept_secret, read_secret
from backend.storage.links import StoredLinks
from backend.storage.session import Database
from sdk_bridge.server.id_tokens import GOOGLE_CERTIFICATES, FirebaseTokens
from sdk_bridge.server.links import Links

NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Proofs:
    """`id_tokens` None: no Firebase project is set, so its tokens prove nothing."""

    id_tokens: FirebaseTokens | None
    links: Links


async def open_proofs(config: Config, state: Database, http: aiohttp.ClientSession) -> Proofs:
    """Reads the secret of link tokens, or makes it. Raises SecretUnusable."""
    identity = config.identity
    tokens = None
    if identity.firebase_project is not None:
        url = identity.certificates_url or GOOGLE_CERTIFICATES
        tokens = FirebaseTokens(identity.firebase_project, lambda: http, url)
    seal = LinkSeal(await asyncio.to_thread(_link_secret, config))
    links = Links(StoredLinks(seal, state), lambda: secrets.token_urlsafe(NONCE_BYTES), identity.deep_link)
    return Proofs(tokens, links)


def _link_secret(config: Config) -> bytes:
    """Losing it costs nothing but the tokens of the last ten minutes, so it is made where there is none."""
    path = config.link_key_file
    if config.identity.link_key_file is not None:
        return read_secret(path)
    return kept_secret(path, partial(secrets.token_bytes, SECRET_BYTES))
