"""Mistakes that were made once: what a stranger or a marketer sent, and what must not come of it."""

import time

import msgspec
import pytest

from backend.campaigns.model import CampaignInvalid, Offer, parse_campaign
from backend.campaigns.offers import OfferUnrenderable, render

FACTS = {"profile": {"name": "Ada"}, "zone": {}, "store": {}, "campaign": {}}


def campaign(body):
    return {
        "campaign_id": "c1",
        "name": "Coffee",
        "trigger": {"type": "zone_dwelt", "store_id": "s1", "zone_id": "a", "dwell_s": 5},
        "offer": {"title": "Hello", "body": body},
        "state": "live",
    }


@pytest.mark.parametrize(
    "body",
    [
        "{{ (1..100000000) | join: ',' }}",
        "{{ (1..300000000) | sum }}",
        "{% if (1..999999999999999) contains 'x' %}a{% endif %}b",
        "{% if true %}{% for i in (1..9999999999) offset:9999999990 %}{{ i }}{% endfor %}{% endif %}",
        "{% assign n = 99999999 %}{{ (1..n) | reverse | size }}",
        "{% case 'a' %}{% when 'a' %}{% assign r = (0..100000000) %}{% endcase %}b",
        "{% include '/etc/passwd' %}",
        "{% render 'offer' %}",
    ],
)
def test_templates_without_end_or_with_files_are_refused_when_they_are_saved(body):
    with pytest.raises(CampaignInvalid, match=r"^offer\.body: "):
        parse_campaign(msgspec.json.encode(campaign(body)))


@pytest.mark.parametrize(
    "body",
    [
        "{{ '1e999999' | round }}",  # an OverflowError, which once cost the whole batch that it came with
        "{% assign a = '" + "a" * 1200 + "' %}{{ a | replace: 'a', a | replace: 'a', a | size }}",
        "{% assign x = 'ab' %}{% for i in (1..60) %}{% assign x = x | append: x %}{% endfor %}{{ x | size }}",
        "{% assign x = 'a,b' | split: ',' %}{% for i in (1..60) %}{% assign x = x | concat: x %}{% endfor %}",
        "{% assign x = 9999 %}{% for i in (1..60) %}{% assign x = x | times: x %}{% endfor %}{{ x }}",
        "{% for i in (1..100) %}{% for j in (1..100) %}x{% endfor %}{% endfor %}",
        "{{ 'now' | date: '" + "%c" * 1900 + "' }}",
    ],
)
def test_templates_that_grow_end_at_once_with_a_reason(body):
    parse_campaign(msgspec.json.encode(campaign(body)))
    began = time.monotonic()
    with pytest.raises(OfferUnrenderable, match=r"."):
        render(Offer("t", body), FACTS)
    assert time.monotonic() - began < 1.0


def test_a_short_range_may_be_walked():
    assert render(Offer("t", "{% for i in (1..3) %}{{ i }} {% endfor %}"), FACTS)[1] == "1 2 3"
