-- name: add_source!
-- An app, a site or a server that may send events.
insert into sources (source_id, name, kind, key_hash, proof, proof_secret, created_at)
values (:source_id, :name, :kind, :key_hash, :proof, :proof_secret, :created_at);

-- name: change_source!
-- What operators may change of a source in use.
update sources set name = :name, proof = :proof, origins = :origins,
  events_per_second = :events_per_second, burst = :burst
where source_id = :source_id and revoked_at is null;

-- name: source_by_key
-- The source of a write key, unless either was revoked or the key has run out.
select sources.source_id, sources.kind, sources.proof, sources.proof_secret, sources.origins,
  sources.events_per_second, sources.burst, source_keys.expires_at
from source_keys join sources on sources.source_id = source_keys.source_id
where source_keys.key_hash = :key_hash and source_keys.revoked_at is null and sources.revoked_at is null
  and (source_keys.expires_at is null or source_keys.expires_at > :now);

-- name: source_by_id
-- By its id, also when it was revoked: what it sent before is still its own.
select source_id, name, kind, proof, proof_secret, origins, events_per_second, burst, created_at, revoked_at
from sources where source_id = :source_id;

-- name: sources
-- For people; neither key nor secret.
select source_id, name, kind, proof, origins, events_per_second, burst, created_at, revoked_at
from sources order by created_at, source_id;

-- name: source_keys
-- For people; how each begins, and how long it lives. Of one source where that is given.
select key_id, source_id, created_at, expires_at, revoked_at from source_keys
where cast(:source_id as text) is null or source_id = :source_id order by created_at, key_id;

-- name: add_source_key!
-- Only the hash is kept.
insert into source_keys (key_id, source_id, key_hash, created_at)
values (:key_id, :source_id, :key_hash, :created_at);

-- name: end_source_keys!
-- Those that have no end yet, because another has come.
update source_keys set expires_at = :expires_at
where source_id = :source_id and expires_at is null and revoked_at is null;

-- name: revoke_source_key!
-- It is refused from now on.
update source_keys set revoked_at = :at
where source_id = :source_id and key_id = :key_id and revoked_at is null;

-- name: revoke_source!
-- Its keys are refused from now on.
update sources set revoked_at = :at where source_id = :source_id and revoked_at is null;
