-- Queries about orders of which PostgreSQL needs its own words.

-- name: order_statements_named
-- Everything that profiles' events say of orders, given as JSON: {profile: [order, ...], ...}.
select s.profile_id, s.order_id, s.event_hash, s.event_id, s.what, s.occurred_at, s.total, s.currency, s.refund_id,
  s.whole, s.has_lines, s.unreadable
from json_each_text(cast(cast(:wanted as text) as json)) p cross join json_each(p.value) o
join order_statements s on s.profile_id = p.key and s.order_id = o.value;
