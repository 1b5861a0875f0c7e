-- name: put_category!
-- A category that a product has, or that lies above one; the first spelling stays.
insert into categories (category_key, path, depth) values (:category_key, :path, :depth)
on conflict (category_key) do nothing;

-- name: put_category_ancestor!
-- That a category lies within another, or is it.
insert into category_ancestors (ancestor_key, category_key) values (:ancestor_key, :category_key)
on conflict (ancestor_key, category_key) do nothing;

-- name: categories
-- The tree, with how many products each has itself.
select c.category_key, c.path, c.depth, count(p.product_id) as products
from categories c left join products p on p.category_key = c.category_key and p.availability <> 'unavailable'
group by c.category_key, c.path, c.depth;

-- name: category_mappings
-- What the web calls the floor's categories.
select web_category, store_category from category_mappings order by web_key;

-- name: clear_category_mappings!
-- Before the new list is written.
delete from category_mappings;

-- name: put_category_mapping!
-- One line of the list; the last of two about the same category counts.
insert into category_mappings (web_key, web_category, store_category)
values (:web_key, :web_category, :store_category)
on conflict (web_key) do update set web_category = excluded.web_category,
  store_category = excluded.store_category;

-- name: put_product!
-- A product, new or as it is now.
insert into products (product_id, sku, name, brand, price, sale_price, currency, category, category_key, url,
  image_url, availability, parent_id, search_text, feed, import_id, updated_at, gone_at)
values (:product_id, :sku, :name, :brand, :price, :sale_price, :currency, :category, :category_key, :url,
  :image_url, :availability, :parent_id, :search_text, :feed, :import_id, :updated_at, null)
on conflict (product_id) do update set sku = excluded.sku, name = excluded.name, brand = excluded.brand,
  price = excluded.price, sale_price = excluded.sale_price, currency = excluded.currency,
  category = excluded.category, category_key = excluded.category_key, url = excluded.url,
  image_url = excluded.image_url, availability = excluded.availability, parent_id = excluded.parent_id,
  search_text = excluded.search_text, feed = excluded.feed, import_id = excluded.import_id,
  updated_at = excluded.updated_at, gone_at = null;

-- name: delete_product!
-- By hand; a feed that still has it brings it back.
delete from products where product_id = :product_id;

-- name: product
-- One product.
select product_id, sku, name, brand, price, sale_price, currency, category, url, image_url, availability,
  parent_id, feed, updated_at, gone_at
from products where product_id = :product_id;

-- name: products
-- In the order of their ids, from behind one; each filter counts unless it is null.
select p.product_id, p.sku, p.name, p.brand, p.price, p.sale_price, p.currency, p.category, p.url, p.image_url,
  p.availability, p.parent_id, p.feed, p.updated_at, p.gone_at
from products p
where p.product_id > :after
  and (cast(:pattern as text) is null or p.search_text like cast(:pattern as text) escape '!')
  and (cast(:parent_id as text) is null or p.parent_id = cast(:parent_id as text))
  and (cast(:category_key as text) is null or p.category_key in (
    select a.category_key from category_ancestors a where a.ancestor_key = cast(:category_key as text)))
order by p.product_id limit :limit;

-- name: products_of_category
-- Those of one category alone, for the shelf of a zone.
select product_id, sku, name, brand, price, sale_price, currency, category, url, image_url, availability,
  parent_id, feed, updated_at, gone_at
from products where category_key = :category_key and product_id > :after order by product_id limit :limit;

-- name: product_category
-- The category of a product that an event names by its id, its stock-keeping unit or its group.
select category from (
  select category, 1 as place, product_id from products where product_id = :product_id
  union all select category, 2, product_id from products where sku = :sku
  union all select category, 3, product_id from products where parent_id = :product_id) as found
where category is not null order by place, product_id limit 1;

-- name: touch_product!
-- A whole feed named it, though in a row that could not be read: it has not vanished.
update products set import_id = :import_id where product_id = :product_id and feed = :feed;

-- name: products_not_in_import
-- Those of a feed that its whole import did not name, from behind one.
select product_id from products
where feed = :feed and import_id <> :import_id and availability <> 'unavailable' and product_id > :after
order by product_id limit :limit;

-- name: count_feed
-- A feed's products that can be had, and how many of them an import did not name.
select count(*) as products, coalesce(sum(case when import_id <> :import_id then 1 else 0 end), 0) as vanished
from products where feed = :feed and availability <> 'unavailable';

-- name: product_vanished!
-- Its shop no longer has it; its history stays.
update products set availability = 'unavailable', gone_at = :at, updated_at = :at
where product_id = :product_id;

-- name: newest_event_properties
-- For finding categories that nobody has mapped: what the newest events said.
select newest.properties, newest.occurred_at from (
  select properties, occurred_at, event_id from events order by event_id desc limit :limit) as newest
where newest.properties is not null order by newest.event_id;

-- name: imported_content
-- What the last imported row about somebody or something said.
select content_hash from imported where subject_hash = :subject_hash;

-- name: remember_imported!
-- That it was journalled; written after the journal's own commit.
insert into imported (subject_hash, content_hash, imported_at)
values (:subject_hash, :content_hash, :imported_at)
on conflict (subject_hash) do update set content_hash = excluded.content_hash,
  imported_at = excluded.imported_at;
