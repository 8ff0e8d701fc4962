{{ config(schema='silver', sort_by=['item_id']) }}

with versions as (
{{ versions_of(source('bronze', 'recomart_products'), 'item_id') }}
)

select
    item_id,
    price,
    nullif(trim(brand), '') as brand,
    nullif(trim(category), '') as category,
    rating,
    in_stock,
    version_count,
    first_ingest_date,
    last_ingest_date,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from versions
where newness = 1
