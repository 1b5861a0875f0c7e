"""A short cut of `make test-fuzz`, and a search of hypothesis's own, at every door of gateway and wire."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk_bridge.wire.codec import WireError
from sdk_bridge.wire.configuration import decode_document
from simulators.endurance.fuzz import Broken, Door, Findings, damaged, fuzz, knock, make_doors

DOORS = [door.name for door in make_doors(Path("unused"), Random(0))]


def test_thousands_of_damaged_payloads_end_in_a_value_or_the_doors_own_error():
    findings = fuzz(30_000, "short/1")
    assert not findings.crashes
    assert findings.fed.total() == 30_000 and set(findings.fed) == set(DOORS)
    refused = {name: findings.refused[name] / findings.fed[name] for name in DOORS if name != "adverts"}
    assert all(0 < share < 1 for share in refused.values()), f"some of each must get through: {refused}"


@given(name=st.sampled_from(DOORS), data=st.data())
def test_whatever_hypothesis_thinks_of_ends_so_too(tmp_path_factory, name, data):
    folder = tmp_path_factory.getbasetemp()
    door = next(door for door in make_doors(folder, Random(0)) if door.name == name)
    seeds = st.sampled_from(list(door.seeds))
    cut = st.tuples(seeds, st.integers(0, 400), st.binary(max_size=40)).map(lambda t: t[0][: t[1]] + t[2])
    findings = Findings()
    for payload in data.draw(st.lists(st.one_of(st.binary(max_size=300), cut), min_size=1, max_size=20)):
        knock(door, payload, findings)
    assert not findings.crashes


def test_a_signed_document_with_a_name_that_is_no_text_is_refused():
    """Found by a long run: the decoder does not look into names that it skips."""
    document = b'{"\xff":1,"store":"demo-shop","gateway":"door","version":3,"issued_at":5,"settings":{}}'
    with pytest.raises(WireError, match="UTF-8"):
        decode_document(document)


@pytest.mark.parametrize("error", [ValueError("x"), Broken("x"), RecursionError("x"), KeyError(1)])
def test_any_other_error_is_a_finding_with_its_payload(error):
    def fall(_payload):
        raise error

    findings = Findings()
    knock(Door("trap", 1, [b"a"], fall), b"\x01\xff", findings)
    assert len(findings.crashes) == 1 and findings.crashes[0].endswith("payload 01ff")


def test_a_run_repeats_by_its_seed():
    seeds = [bytes(range(20)), b"another"]
    runs = [[damaged(seeds, dice) for _ in range(200)] for dice in (Random(5), Random(5))]
    assert runs[0] == runs[1] and len(set(runs[0])) > 150
