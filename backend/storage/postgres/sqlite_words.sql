-- What named queries may use with SQLite and PostgreSQL lacks: the lesser and the greater of two. As there,
-- nothing is known where one of them is not. The planner puts the text in place of the call.
create or replace function min(one bigint, other bigint) returns bigint language sql immutable
  return case when one is null or other is null then null when one < other then one else other end;
create or replace function max(one bigint, other bigint) returns bigint language sql immutable
  return case when one is null or other is null then null when one > other then one else other end;
create or replace function min(one double precision, other double precision) returns double precision
  language sql immutable
  return case when one is null or other is null then null when one < other then one else other end;
create or replace function max(one double precision, other double precision) returns double precision
  language sql immutable
  return case when one is null or other is null then null when one > other then one else other end;
