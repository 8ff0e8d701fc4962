-- Gold accounts for every change in the latest versions of all types.
with silver as (
    {%- for type in ['movie', 'tv_series', 'person'] %}

    select
        '{{ type }}' as data_type,
        tmdb_id,
        change_count
    from {{ if_there(
        ref('silver_tmdb_' ~ type), {'tmdb_id': 'bigint', 'change_count': 'bigint'}
    ) }} as silver_{{ type }}
    where change_count > 0
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}

),

gold as (

    select data_type, tmdb_id, change_count
    from {{ ref('gold_tmdb_most_changed') }}

)

select * from (select * from silver except select * from gold) as missing
union all
select * from (select * from gold except select * from silver) as unexpected
