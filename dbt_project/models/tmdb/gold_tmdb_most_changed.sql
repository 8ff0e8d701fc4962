{{ config(schema='gold', sort_by=['change_count']) }}

{%- set types = {
    'movie': (ref('silver_tmdb_movie'), 'title'),
    'tv_series': (ref('silver_tmdb_tv_series'), 'name'),
    'person': (ref('silver_tmdb_person'), 'name'),
} -%}
{%- set columns = {
    'tmdb_id': 'bigint', 'title': 'varchar', 'name': 'varchar', 'popularity': 'double',
    'version_count': 'bigint', 'change_count': 'bigint', 'first_seen_at': 'timestamp',
    'last_changed_at': 'timestamp', 'first_ingest_date': 'date', 'last_ingest_date': 'date',
} -%}
{%- set keys = ['data_type', 'tmdb_id'] -%}
{%- if ingest_date_bounds() -%}
  {%- set queries = [] -%}
  {%- for type, (silver, _) in types.items() -%}
    {%- do queries.append(
        "select '" ~ type ~ "' as data_type, tmdb_id from " ~ if_there(silver, columns)
        ~ ' as s where ' ~ came_in_ingest_dates()
    ) -%}
  {%- endfor -%}
  {#- Titles whose versions left bronze, and that silver may not have any more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select data_type, tmdb_id from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
    {#- Silver takes a title as a whole, also what later ingest dates have of it by now. -#}
    {%- for type, (silver, _) in types.items() -%}
      {%- set counted = "select '" ~ type ~ "' as data_type, tmdb_id, change_count from " -%}
      {%- set fresh = counted ~ if_there(silver, columns) ~ ' as s where change_count > 0' -%}
      {%- set stored = counted ~ this ~ " where data_type = '" ~ type ~ "'" -%}
      {%- for one, other in [(fresh, stored), (stored, fresh)] -%}
        {%- do queries.append(
            'select data_type, tmdb_id from (' ~ one ~ ' except ' ~ other ~ ') as differing'
        ) -%}
      {%- endfor -%}
    {%- endfor -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- for type, (silver, _) in types.items() -%}
      {%- do queries.append(
          "select '" ~ type ~ "' as data_type, tmdb_id from " ~ if_there(silver, columns) ~ ' as s'
      ) -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set touched = touched_keys(keys, queries) -%}
{%- endif %}

with titles as (
    {%- for type, (silver, title) in types.items() %}

    select
        '{{ type }}' as data_type,
        tmdb_id,
        {{ title }} as title,
        popularity,
        version_count,
        change_count,
        first_seen_at,
        last_changed_at,
        first_ingest_date,
        last_ingest_date
    from {{ if_there(silver, columns) }} as silver_{{ type }}
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}

)

select t.*
from titles as t
{%- if ingest_date_bounds() %}
inner join ({{ touched }}) as k on t.data_type = k.data_type and t.tmdb_id = k.tmdb_id
{%- endif %}
where t.change_count > 0
