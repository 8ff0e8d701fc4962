{# The silver model of a type: the latest version of each title or person, with these columns. #}
{% macro tmdb_latest(bronze, columns) %}
with versions as (
{{ versions_of(
    bronze, 'tmdb_id', ['"timestamp" desc nulls last'], day='ingest_date',
    same_version=['ingestion_id', '"timestamp"', 'data_label', 'source_file']
) }}
),

counted as (

    select
        *,
        count(case when data_label = 'change' and copy_number = 1 then 1 end)
            over (partition by tmdb_id) as change_count,
        min("timestamp") over (partition by tmdb_id) as first_seen_at,
        max(case when data_label = 'change' then "timestamp" end)
            over (partition by tmdb_id) as last_changed_at
    from versions

)

select
    tmdb_id,
    {%- for column in columns %}
    {{ column }},
    {%- endfor %}
    data_label,
    source_file,
    ingestion_id,
    "timestamp" as processed_at,
    version_count,
    change_count,
    first_seen_at,
    last_changed_at,
    first_ingest_date,
    last_ingest_date,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from counted
where newness = 1
{% endmacro %}


{# Films and series in the columns that they share. #}
{% macro tmdb_titles(movies, series) -%}
  {%- set columns = {
      'tmdb_id': 'bigint', 'popularity': 'double', 'vote_average': 'double', 'vote_count': 'bigint',
      'genres': objects_type({'id': 'bigint', 'name': 'varchar'}), 'release_year': 'integer', 'first_air_year': 'integer',
  } -%}
  {%- set shared -%}
    tmdb_id,
    genres,
    {{ safe_decimal('popularity', 18, 4) }} as popularity,
    {{ safe_decimal('vote_average', 9, 4) }} as vote_average,
    {{ within('vote_count', 0, 1000000000) }} as vote_count
  {%- endset -%}
  select 'movie' as data_type, release_year, {{ shared }}
    from {{ if_there(movies, columns) }} as movies
    union all
    select 'tv_series' as data_type, first_air_year, {{ shared }}
    from {{ if_there(series, columns) }} as series
{%- endmacro %}

{#
  The catalogue by type, genre and year. Sums are of decimals: those of doubles depend on the
  order of the rows, and no two runs would agree to the last digit.
#}
{% macro tmdb_catalogue(movies, series) -%}
  select
        {{ key_of(['data_type', 'genre', 'release_year']) }} as catalogue_key,
        data_type,
        genre,
        release_year,
        count(*) as titles,
        count(*) filter (where vote_count > 0) as rated_titles,
        coalesce(cast(sum(vote_count) as bigint), 0) as votes,
        cast(sum(vote_average * vote_count) as double)
            / nullif(sum(vote_count) filter (where vote_average is not null), 0) as mean_rating,
        cast(sum(popularity) as double)
            / nullif(count(popularity), 0) as mean_popularity
    from (
        select distinct
            t.data_type,
            t.tmdb_id,
            t.release_year,
            t.popularity,
            t.vote_average,
            t.vote_count,
            g.name as genre
        from ({{ tmdb_titles(movies, series) }}) as t
        {{ join_objects('t.genres', 'g', ['id', 'name']) }}
    ) as placed
    group by data_type, genre, release_year
{%- endmacro %}
