-- Silver accounts for every version in bronze.
{%- for type in ['movie', 'tv_series', 'person'] %}
{%- if not loop.first %}
union all
{%- endif %}
select
    '{{ type }}' as data_type,
    bronze.total,
    silver.counted
from (
    select count(*) as total
    from {{ source('bronze', 'tmdb_' ~ type) }}
    where tmdb_id is not null and ingest_date is not null
) as bronze
cross join (
    select coalesce(cast(sum(version_count) as bigint), 0) as counted
    from {{ ref('silver_tmdb_' ~ type) }}
) as silver
where bronze.total <> silver.counted
{%- endfor %}
