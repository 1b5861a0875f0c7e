-- name: save_campaign!
-- The newest definition; its version rises with every change.
insert into campaigns (campaign_id, version, state, definition, changed_at)
values (:campaign_id, 1, :state, :definition, :changed_at)
on conflict (campaign_id) do update set version = campaigns.version + 1, state = excluded.state,
  definition = excluded.definition, changed_at = excluded.changed_at;

-- name: campaigns
-- Every campaign.
select campaign_id, version, state, definition, changed_at from campaigns order by campaign_id;

-- name: campaign
-- One campaign.
select campaign_id, version, state, definition, changed_at from campaigns where campaign_id = :campaign_id;

-- name: keep_campaign_version!
-- Every definition that ever was, with who wrote it.
insert into campaign_versions (campaign_id, version, state, definition, changed_at, changed_by)
values (:campaign_id, :version, :state, :definition, :changed_at, :changed_by) on conflict do nothing;

-- name: campaign_versions
-- The versions of a campaign, the newest first.
select version, state, definition, changed_at, changed_by from campaign_versions
where campaign_id = :campaign_id order by version desc limit :limit;

-- name: start_wait!
-- A candidate in the making.
insert into campaign_waits (campaign_id, subject, begun_at, profile_id, due_at, stays, holds, store_id, zone_id,
  fence_id, confidence, partition)
values (:campaign_id, :subject, :begun_at, :profile_id, :due_at, :stays, :holds, :store_id, :zone_id,
  :fence_id, :confidence, :partition)
on conflict (campaign_id, subject, begun_at) do nothing;

-- name: end_wait!
-- Decided, or the person has left.
delete from campaign_waits
where campaign_id = :campaign_id and subject = :subject and begun_at = :begun_at;

-- name: stays_waited_for
-- Stays that somebody waits for; read at start.
select campaign_id, subject, begun_at, profile_id, due_at, stays, holds, store_id, zone_id, fence_id, confidence,
  partition from campaign_waits where stays = 1 order by due_at;

-- name: waits_due
-- Candidates that the clock has completed.
select campaign_id, subject, begun_at, profile_id, due_at, stays, holds, store_id, zone_id, fence_id, confidence,
  partition from campaign_waits where stays = 0 and due_at <= :now
  and (cast(:partitions as text) is null or partition in
    (select cast(value as integer) from json_each(cast(:partitions as text))))
order by due_at limit :limit;

-- name: record_decision
-- Every candidate ends here, with the reason; one per moment, so a repetition returns no id.
insert into decisions (campaign_id, campaign_version, profile_id, store_id, zone_id, fence_id, entered_at, due_at,
  completed_at, decided_at, verdict, reason, subject, holds, confidence, variant, send_at, active)
values (:campaign_id, :campaign_version, :profile_id, :store_id, :zone_id, :fence_id, :entered_at, :due_at,
  :completed_at, :decided_at, :verdict, :reason, :subject, :holds, :confidence, :variant, :send_at, :active)
on conflict do nothing returning decision_id;

-- name: decision_of_moment
-- Whose moment was decided there before.
select subject from decisions where campaign_id = :campaign_id and profile_id = :profile_id
  and zone_id = :zone_id and entered_at = :entered_at;

-- name: end_decision!
-- The last of its pushes came to its end.
update decisions set active = 0
where decision_id = :decision_id and active = 1 and not exists (select 1 from pushes
  where pushes.decision_id = :decision_id and pushes.state in ('queued', 'claimed', 'sending'));

-- name: offers_to_person
-- A campaign's offers to a person, or to whom was merged into them; what never went out does not count.
with recursive {tree}
select d.decision_id, d.send_at as at, d.store_id, d.zone_id, d.fence_id, d.active from tree cross join decisions d
where d.profile_id = tree.profile_id and d.campaign_id = :campaign_id and d.verdict in ('sent', 'held_out')
  and (d.active = 1 or d.verdict = 'held_out' or exists (select 1 from pushes
    where pushes.decision_id = d.decision_id and pushes.state not in ('suppressed', 'expired', 'rejected')))
order by d.send_at;

-- name: offers_between$
-- How many offers of any campaign go to a person in a span of time, those on their way included; as was known at
-- a time, and without what one campaign has offered since another.
with recursive {tree}
select count(*) from tree cross join decisions d
where d.profile_id = tree.profile_id and d.verdict = 'sent' and d.send_at >= :start and d.send_at < :end
  and d.decided_at <= :known_at and (d.campaign_id <> :campaign_id or d.decided_at < :since)
  and (d.active = 1 or exists (select 1 from pushes
    where pushes.decision_id = d.decision_id and pushes.state not in ('suppressed', 'expired', 'rejected')));

-- name: offers_of_moment
-- Other campaigns' offers to a person for what happened in a span of time; what never went out does not count.
with recursive {tree}
select distinct d.campaign_id from tree cross join decisions d
where d.profile_id = tree.profile_id and d.verdict = 'sent' and d.campaign_id <> :campaign_id
  and d.due_at between :start and :end
  and (d.active = 1 or exists (select 1 from pushes
    where pushes.decision_id = d.decision_id and pushes.state not in ('suppressed', 'expired', 'rejected')));

-- name: offers_beside
-- Other campaigns' offers to a person for what happened in a span of time, each with its times.
with recursive {tree}
select d.campaign_id, d.due_at, d.decided_at, d.send_at from tree cross join decisions d
where d.profile_id = tree.profile_id and d.verdict = 'sent' and d.campaign_id <> :campaign_id
  and d.due_at between :start and :end
  and (d.active = 1 or exists (select 1 from pushes
    where pushes.decision_id = d.decision_id and pushes.state not in ('suppressed', 'expired', 'rejected')))
order by d.due_at, d.campaign_id;

-- name: offers_that_yield
-- Other campaigns' offers to a person for what happened in a span of time of which nothing has begun to leave.
with recursive {tree}
select d.campaign_id, d.send_at as at from tree cross join decisions d
where d.profile_id = tree.profile_id and d.verdict = 'sent' and d.active = 1 and d.campaign_id <> :campaign_id
  and d.due_at between :start and :end
  and not exists (select 1 from pushes
    where pushes.decision_id = d.decision_id and pushes.sending_at is not null);

-- name: sent_between$
-- How many other offers have left for a person in a span of time, in whatever state they are.
with recursive {tree}
select count(distinct q.decision_id) from tree cross join pushes q
where q.profile_id = tree.profile_id and q.sending_at >= :start and q.sending_at < :end
  and q.decision_id <> :decision_id;

-- name: older_active_offer$
-- Whether the same campaign has another, earlier offer on its way to the person: two people became one.
with recursive {tree}
select count(*) from tree cross join decisions d
where d.profile_id = tree.profile_id and d.campaign_id = :campaign_id and d.active = 1
  and d.decision_id < :decision_id;

-- name: goal_reached$
-- When a person first did what a campaign is for, since a moment, and word of it had come; also what was dated
-- earlier and told since. Of browsers' doings those that are the person's. The name is hidden from its index: by it
-- there are everybody's.
with recursive {tree}
select min(max(e.occurred_at, e.received_at)) from tree cross join profiles p cross join events e
where p.profile_id = tree.profile_id and e.profile_id = tree.profile_id
  and e.kind = 'track' and coalesce(e.name, '') = :name and e.occurred_at >= :earliest
  and e.occurred_at between p.attach_from and p.attach_until
  and (e.occurred_at >= :since or e.received_at >= :since);

-- name: decision
-- One decision.
select decision_id, campaign_id, campaign_version, profile_id, store_id, zone_id, fence_id, entered_at, due_at,
  decided_at, verdict, reason, subject, holds, confidence, variant, send_at, active
from decisions where decision_id = :decision_id;

-- name: is_in_store$
-- Whether a person is in a store now, also as somebody who was merged into them; who was in none of its zones for
-- long may be anywhere.
with recursive {tree}
select count(*) from tree join visits using (profile_id)
where visits.store_id = :store_id and visits.left_at is null
  and (visits.idle_since is null or visits.idle_since >= :in_a_zone_since);

-- name: left_since
-- The pushes of a campaign that left last since a time.
select push_id, sending_at from pushes where campaign_id = :campaign_id and sending_at >= :since
order by sending_at desc limit :limit;

-- name: add_code_pool!
-- A pool, or its new name.
insert into code_pools (pool_id, name, created_at) values (:pool_id, :name, :created_at)
on conflict (pool_id) do update set name = excluded.name;

-- name: add_code!
-- A code to be given once.
insert into codes (pool_id, code, added_at) values (:pool_id, :code, :added_at) on conflict do nothing;

-- name: any_code_left
-- Whether a pool has a code at all.
select 1 from codes where pool_id = :pool_id and decision_id is null limit 1;

-- name: give_code
-- The next code of a pool, for a decision.
update codes set decision_id = :decision_id, given_at = :given_at
where pool_id = :pool_id and code = (select c.code from codes c
  where c.pool_id = :pool_id and c.decision_id is null order by c.added_at, c.code limit 1)
returning code;

-- name: next_code
-- What give_code will give.
select code from codes where pool_id = :pool_id and decision_id is null order by added_at, code limit 1;

-- name: code_pool
-- One pool.
select pool_id, name, created_at from code_pools where pool_id = :pool_id;

-- name: code_pools
-- Every pool with what it has.
select p.pool_id, p.name, count(c.code) as codes, count(c.decision_id) as given
from code_pools p left join codes c on c.pool_id = p.pool_id group by p.pool_id, p.name order by p.pool_id;

-- name: decisions_of_campaign
-- How a campaign's candidates ended.
select verdict, reason, count(*) as candidates from decisions
where campaign_id = :campaign_id group by verdict, reason order by candidates desc;

-- name: pushes_by_state
-- For people and for accounts.
select state, count(*) as pushes, count(opened_at) as opened from pushes group by state;

-- name: pushes_of_campaign
-- The funnel of one campaign.
select state, count(*) as pushes, count(received_at) as received,
  count(opened_at) as opened
from pushes where campaign_id = :campaign_id group by state;

-- name: accepted_latencies
-- For accounts: from the later of due and complete to FCM's 200.
select finished_at - max(due_at, completed_at) as ms from pushes
where state = 'accepted' and finished_at is not null;

-- name: decisions_with_pushes
-- For accounts: every decision, once for each of its pushes.
select d.decision_id, d.campaign_id, d.verdict, d.reason, p.push_id, p.state, p.address_value as address
from decisions d left join pushes p on p.decision_id = d.decision_id;

-- name: newest_pushes
-- For the live floor.
select push_id, campaign_id, profile_id, state, reason, created_at, finished_at, opened_at
from pushes order by created_at desc limit :limit;

-- name: is_in_zone$
-- Whether a person is in a zone now, with any of their beacons; also as somebody who was merged into them.
with recursive {tree}
select exists (select 1 from tree join presences using (profile_id)
  where store_id = :store_id and zone_id = :zone_id);

-- name: whereabouts
-- The stores that a person is in now, and the zones there; the newest visit first.
with recursive {tree}
select v.store_id, here.zone_id
from tree join visits v on v.profile_id = tree.profile_id
left join presences here on here.beacon_key = v.subject and here.store_id = v.store_id
where v.left_at is null order by v.entered_at desc, v.visit_id desc;

-- name: clock_of_last_store
-- The time zone of the store that a person came to last.
with recursive {tree}
select s.timezone from tree join visits v on v.profile_id = tree.profile_id join stores s on s.store_id = v.store_id
order by v.entered_at desc limit 1;

-- name: clocks_of_stores
-- The time zones of all stores; two are enough to know that they differ.
select distinct timezone from stores limit 2;
