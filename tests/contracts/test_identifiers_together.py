"""Who is named by many events at once is looked up by the index, however many people there are."""

import pytest

from backend.storage.profile_rows import ProfileRows
from sdk_bridge.wire.app_events import AppEvent

NOON = 1_750_075_200_000
FILLED = """
insert into profiles (profile_id, id_type, id, created_at)
  select 'p' || n, 'user_id', 'u' || n, 0 from generate_series(1, 3000) n;
insert into identity_claims (id_type, id, profile_id, via, first_at, last_at, last_hash)
  select 'email', 'e' || n % 10, 'p' || n, '', 0, 0, 0 from generate_series(1, 3000) n;
analyze profiles, identity_claims;
"""
READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables
where relname in ('profiles', 'identity_claims')
"""


@pytest.mark.parametrize("engine", ["postgres"])
async def test_who_is_named_is_found_without_reading_everybody(state, raw):
    await state.write(lambda session: session.line.tell(FILLED))
    events = [AppEvent("track", f"m{n}", "s", NOON, NOON, user_id=f"u{n}", name="Seen") for n in range(1, 6)]

    def look(session):
        store = ProfileRows(session)
        store.foresee(events)
        return [store.profile_of(("user_id", f"u{n}")) for n in range(1, 7)], raw(session, READ)

    found, [(read,)] = await state.write(look)
    assert found == [f"p{n}" for n in range(1, 7)]
    assert read < 50
