"""What people with several identifiers bought is added up from their own rows, whoever else there is."""

import json

import pytest

FILLED = """
insert into profiles (profile_id, id_type, id, created_at)
  select 'p' || n, 'user_id', 'u' || n, 0 from generate_series(1, 3000) n;
insert into orders (profile_id, order_id, status, completed_at, total, refunded, stated_at, stated_hash)
  select 'p' || n, 'o' || n, 'completed', n, 1000, n % 2, n, n from generate_series(1, 3000) n;
insert into order_statements (profile_id, order_id, event_hash, event_id, what, occurred_at, whole, has_lines,
  unreadable) select 'p' || n, 'o' || n, n, n, 'completed', n, 0, 0, 0 from generate_series(1, 3000) n;
analyze profiles, orders, order_statements;
"""
READ = """
select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables
where relname in ('profiles', 'orders', 'order_statements')
"""


@pytest.mark.parametrize("engine", ["postgres"])
async def test_people_are_added_up_without_reading_everybody(state, raw):
    await state.write(lambda session: session.line.tell(FILLED))

    trees = json.dumps([["p1", ["p1", "p2"]], ["p3", ["p3", "p4", "p5"]]])

    def add_up(session):
        rows = session.rows("rfm_purchases_of_people", trees=trees)
        return {person: tuple(bought) for person, *bought in rows}, raw(session, READ)

    bought, [(read,)] = await state.write(add_up)
    assert bought == {"p1": (2, 2, 1999), "p3": (5, 3, 2998)}
    assert read < 100
