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
-- What lies at a path in a document, and what kind of thing it is, as SQLite calls it. `$."a"[0]."b c"` is a path
-- in both. A document may hold the escape of U+0000, which PostgreSQL has no text for; SQLite's texts end there.
create or replace function json_at(document text, path text) returns jsonb language sql immutable
  return jsonb_path_query_first(
    cast(case when strpos(document, '\u0000') = 0 then document
      else regexp_replace(document, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\uffff', 'g') end as jsonb),
    cast('strict ' || path as jsonpath), '{}', true);
create or replace function json_type(document text, path text) returns text language sql immutable
  return case jsonb_typeof(json_at(document, path))
    when 'string' then 'text' when 'number' then 'real' when 'boolean' then cast(json_at(document, path) as text)
    else jsonb_typeof(json_at(document, path)) end;
create or replace function json_extract(document text, path text) returns text language sql immutable
  return split_part(json_at(document, path) #>> '{}', U&'\FFFF', 1);
-- The elements of the list at a path.
create or replace function json_each(document text, path text) returns table (key bigint, value text)
  language sql immutable
  as $$ select number - 1, element from jsonb_array_elements_text(
      case when jsonb_typeof(json_at(document, path)) = 'array' then json_at(document, path) else '[]' end)
    with ordinality as elements (element, number) $$;
create or replace function instr(whole text, part text) returns integer language sql immutable
  return strpos(whole, part);
-- A column as a JSON list.
create or replace aggregate json_group_array(bigint)
  (sfunc = array_append, stype = bigint[], initcond = '{}', finalfunc = array_to_json);
create or replace aggregate json_group_array(text)
  (sfunc = array_append, stype = text[], initcond = '{}', finalfunc = array_to_json);
