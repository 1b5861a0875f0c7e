"""Who is held out and who sees which variant: by a hash, so always the same people. Pure.

A person's share is where the hash of campaign and person falls on a circle; nothing is stored or drawn.
"""

import hashlib
from typing import Literal, TypeAlias

from backend.campaigns.model import Campaign

Arm: TypeAlias = Literal["treated", "held_out"]
_CIRCLE = 1 << 64


def arm_of(campaign: Campaign, profile_id: str) -> Arm:
    """Whether a person belongs to the control group of a campaign."""
    return (
        "held_out"
        if _share(campaign.campaign_id, "holdout", profile_id) * 100 < campaign.holdout_percent
        else "treated"
    )


def variant_of(campaign: Campaign, profile_id: str) -> str:
    """The variant that a person gets, by the weights; `offer` where there are none."""
    if not campaign.variants:
        return "offer"
    whole = sum(variant.weight for variant in campaign.variants)
    at, passed = _share(campaign.campaign_id, "variant", profile_id) * whole, 0
    for variant in campaign.variants:
        passed += variant.weight
        if at < passed:
            return variant.variant_id
    return campaign.variants[-1].variant_id


def _share(*what: str) -> float:
    """A number in [0, 1), evenly spread over people, independent between purposes."""
    digest = hashlib.blake2b("\0".join(what).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _CIRCLE
