-- What named queries may use with SQLite and PostgreSQL lacks. The planner puts the text in place of the call.
-- The lesser and the greater of two; as there, nothing is known where one of them is not.
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
-- A list of texts or numbers as rows; a number comes as text, so cast it.
create or replace function json_each(list text) returns table (key bigint, value text) language sql immutable
  as $$ select number - 1, element from json_array_elements_text(cast(list as json))
    with ordinality as elements (element, number) $$;
-- An element of a list that is such a value.
create or replace function element_of(list text, place integer) returns text language sql immutable
  return cast(list as json) ->> place;
do $$ begin
  create operator ->> (function = element_of, leftarg = text, rightarg = integer);
exception when duplicate_function then null; end $$;
