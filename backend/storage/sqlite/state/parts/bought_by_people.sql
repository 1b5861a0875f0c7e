-- What the orders `o` of the profiles `p` of people `t` come to, and whether they simply add up: `outside` is 1 where
-- something was said of one while it was not the person's.
select t.person_id, max(case when o.status = 'completed' then o.completed_at end) as last_at,
    sum(case when o.status = 'completed' then 1 else 0 end) as orders,
    cast(sum(case when o.status = 'completed' then coalesce(o.total, 0) - o.refunded else 0 end) as integer) as revenue,
    count(*) as reports, count(distinct o.order_id) as different,
    max(case when exists (
      select 1 from order_statements s
      where s.profile_id = p.profile_id and (s.occurred_at < p.attach_from or s.occurred_at > p.attach_until))
      then 1 else 0 end) as outside
