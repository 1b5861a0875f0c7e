-- The catalogue, what the web calls its categories, and what imports have brought already. Times are unix ms.
create table categories (
  category_key text primary key, -- folded names joined by slashes
  path text not null,            -- as it was first written: Shoes > Running
  depth integer not null
);
create table category_ancestors ( -- each category with itself and everything above it
  ancestor_key text not null,
  category_key text not null,
  primary key (ancestor_key, category_key)
);
create table category_mappings (
  web_key text primary key,      -- folded; its names may be *
  web_category text not null,
  store_category text not null   -- empty: it lies on no shelf
);
create table products (
  product_id text primary key,
  sku text,
  name text not null,
  brand text,
  price bigint,                  -- hundredths of the currency's unit
  sale_price bigint,
  currency text,
  category text,                 -- as the shop writes it
  category_key text not null,    -- folded; empty: none
  url text,
  image_url text,
  availability text not null check (availability in
    ('in_stock', 'out_of_stock', 'preorder', 'backorder', 'unavailable')),
  parent_id text,                -- what the variants of one thing share
  search_text text not null,
  feed text not null,            -- whose whole import may declare it gone; empty: made by hand
  import_id text not null,       -- the last import that named it
  updated_at bigint not null,
  gone_at bigint
);
create index products_of_category on products (category_key, product_id);
create index products_of_parent on products (parent_id) where parent_id is not null;
create index products_of_sku on products (sku) where sku is not null;
create index products_of_feed on products (feed, product_id);
-- Rows of contacts and orders that were imported, so that a file brought again changes nothing. Both hashes
-- are keyed with the secret of the source `import`: nobody can ask whether somebody was in a file.
create table imported (
  subject_hash bigint primary key, -- whose or what: a contact, an order, a refund
  content_hash bigint not null,    -- what the last row about it said
  imported_at bigint not null
);
