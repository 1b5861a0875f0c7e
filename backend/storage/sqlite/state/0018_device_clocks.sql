-- In which time zone a profile's own devices say that they are; times are unix ms, UTC.
create table device_clocks (
  profile_id text primary key,
  timezone text not null,        -- an IANA name
  hour bigint not null           -- when the hour of the event that said so began
);
