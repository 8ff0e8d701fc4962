{{ config(schema='gold', sort_by=['data_type', 'release_year', 'genre']) }}

{#-
  A title can leave a genre or a year, and only the table knows that it was there: the rows to
  replace are those that differ from the table's, which costs one scan of narrow columns.
-#}
{%- set movies, series = ref('silver_tmdb_movie'), ref('silver_tmdb_tv_series') -%}
{%- set fresh = tmdb_catalogue(movies, series) -%}
{%- if ingest_date_bounds() -%}
  {%- if this_exists() -%}
    {%- set stored = 'select * from ' ~ this -%}
    {%- set queries = [
        'select catalogue_key from (' ~ fresh ~ ' except ' ~ stored ~ ') as gained',
        'select catalogue_key from (' ~ stored ~ ' except ' ~ fresh ~ ') as lost',
    ] -%}
  {%- else -%}
    {%- set queries = ['select catalogue_key from (' ~ fresh ~ ') as fresh'] -%}
  {%- endif -%}
  {%- set keys = touched_keys(['catalogue_key'], queries) -%}
{%- endif %}

with catalogue as (

    {{ fresh }}

)

select c.*
from catalogue as c
{%- if ingest_date_bounds() %}
inner join ({{ keys }}) as k on c.catalogue_key = k.catalogue_key
{%- endif %}
