-- Queries about orders of which PostgreSQL needs its own words.

-- name: order_statements_named
-- Everything that profiles' events say of orders, given as JSON: {profile: [order, ...], ...}. Each order is looked
-- up alone (`offset 0`): as a plain join, all that was ever said of a profile is read, and a till's may have 100,000.
select s.profile_id, s.order_id, s.event_hash, s.event_id, s.what, s.occurred_at, s.total, s.currency, s.refund_id,
  s.whole, s.has_lines, s.unreadable
from json_each_text(cast(cast(:wanted as text) as json)) p cross join json_each(p.value) o
cross join lateral (
  select * from order_statements told where told.profile_id = p.key and told.order_id = o.value offset 0) s;
