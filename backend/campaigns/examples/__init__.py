"""Campaigns to begin with: shipped as JSON files beside this one, each whole and checked when it is read."""

from functools import cache
from importlib import resources

import msgspec
from msgspec import Struct

from backend.campaigns.model import Campaign, parse_campaign


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    """A campaign as a draft, what it is for, and what has to be set up before it can be saved."""

    summary: str
    needs: tuple[str, ...]
    campaign: Campaign


class _Written(Struct, frozen=True, forbid_unknown_fields=True):
    """An example as its file has it."""

    summary: str
    needs: tuple[str, ...]
    campaign: msgspec.Raw


@cache
def examples() -> tuple[Example, ...]:
    """Every example, by the name of its file. Raises CampaignInvalid for one that the rules refuse."""
    folder = resources.files(__package__)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda f: f.name)
    written = [msgspec.json.decode(file.read_bytes(), type=_Written) for file in files]
    return tuple(Example(one.summary, one.needs, parse_campaign(bytes(one.campaign))) for one in written)
