-- name: keep_order_statement!
-- What an event says of an order; the same event again changes nothing.
insert into order_statements (profile_id, order_id, event_hash, event_id, what, occurred_at, total, currency,
  refund_id, whole, has_lines, unreadable)
values (:profile_id, :order_id, :event_hash, :event_id, :what, :occurred_at, :total, :currency,
  :refund_id, :whole, :has_lines, :unreadable)
on conflict (profile_id, order_id, event_hash) do nothing;

-- name: keep_order_line!
-- A product that the statement names.
insert into order_lines (profile_id, order_id, event_hash, line, product_id, category, quantity, price)
values (:profile_id, :order_id, :event_hash, :line, :product_id, :category, :quantity, :price)
on conflict (profile_id, order_id, event_hash, line) do nothing;

-- name: order_statements_named
-- Everything that profiles' events say of orders, given as JSON: {profile: [order, ...], ...}.
select s.profile_id, s.order_id, s.event_hash, s.event_id, s.what, s.occurred_at, s.total, s.currency, s.refund_id,
  s.whole, s.has_lines, s.unreadable
from json_each(cast(:wanted as text)) p cross join json_each(p.value) o cross join order_statements s
where s.profile_id = p.key and s.order_id = o.value;

-- name: put_order!
-- The order as it follows from its statements.
insert into orders (profile_id, order_id, status, completed_at, total, currency, refunded, stated_at, stated_hash,
  lines_of)
values (:profile_id, :order_id, :status, :completed_at, :total, :currency, :refunded, :stated_at, :stated_hash,
  :lines_of)
on conflict (profile_id, order_id) do update set status = excluded.status, completed_at = excluded.completed_at,
  total = excluded.total, currency = excluded.currency, refunded = excluded.refunded,
  stated_at = excluded.stated_at, stated_hash = excluded.stated_hash, lines_of = excluded.lines_of;

-- name: drop_order!
-- Nothing is said of it any more.
delete from orders where profile_id = :profile_id and order_id = :order_id;

-- name: drop_order_statement!
-- The event that said it is gone.
delete from order_statements
where profile_id = :profile_id and order_id = :order_id and event_hash = :event_hash;

-- name: drop_order_lines!
-- And so are the products it named.
delete from order_lines where profile_id = :profile_id and order_id = :order_id and event_hash = :event_hash;

-- name: order_statements_of_person
-- Everything said of a person's orders, through whichever identifier.
with recursive {attached_tree}
select s.order_id, s.event_hash, s.event_id, s.what, s.occurred_at, s.total, s.currency, s.refund_id, s.whole,
  s.has_lines, s.unreadable
from tree join order_statements s on s.profile_id = tree.profile_id
where s.occurred_at between tree.attach_from and tree.attach_until;

-- name: order_lines_of_person
-- The products of a person's newest orders; where two identifiers reported an order, of each report.
with recursive {attached_tree}
select o.order_id, o.completed_at, l.event_hash, l.line, l.product_id, l.category, l.quantity, l.price
from tree join orders o on o.profile_id = tree.profile_id
join order_lines l on l.profile_id = o.profile_id and l.order_id = o.order_id and l.event_hash = o.lines_of
where o.status = 'completed' and o.completed_at >= :since
  and o.completed_at between tree.attach_from and tree.attach_until
order by o.completed_at desc, o.order_id, l.event_hash, l.line limit :limit;
