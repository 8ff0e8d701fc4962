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
    first_window,
    last_window,
    known_window as _window,
    _generation,
    _partition,
    _offset
from versions
where newness = 1
