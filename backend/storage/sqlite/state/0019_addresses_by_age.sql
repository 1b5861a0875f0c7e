-- Push addresses whose app was not seen for long are found, and go.
create index push_addresses_by_age on push_addresses (last_seen_at);
