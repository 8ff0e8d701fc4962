{{ config(schema='gold', partition_by=['month(event_date)'], sort_by=['event_date', 'item_id']) }}

{%- set silver = ref('silver_recomart_transactions') -%}
{%- if ingest_date_bounds() -%}
  {%- set queries = ['select event_date from ' ~ silver ~ ' where ' ~ in_ingest_dates('_ingest_date')] -%}
  {#- Days that had interactions in these ingest dates, and may have them no more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select event_date from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
    {#- Silver takes a day as a whole, also what later ingest dates have of it by now. -#}
    {%- do queries.append(
        'select coalesce(s.event_date, g.event_date) as event_date '
        ~ 'from (select event_date, count(*) as deeds from ' ~ silver
        ~ ' group by event_date) as s full outer join (select event_date, '
        ~ 'sum(views + add_to_carts + purchases) as deeds from ' ~ this
        ~ ' group by event_date) as g on s.event_date = g.event_date '
        ~ 'where coalesce(s.deeds, 0) <> coalesce(g.deeds, 0)'
    ) -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- do queries.append('select event_date from ' ~ silver) -%}
  {%- endif -%}
  {%- set dates = touched_values('event_date', queries) -%}
{%- endif %}

select
    event_date,
    item_id,
    {{ recomart_counts('popularity_score') }},
    count(distinct user_id) as users,
    count(rating) as ratings,
    cast(sum(rating) as double) / nullif(count(rating), 0) as mean_rating,
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from {{ silver }}
{%- if ingest_date_bounds() %}
where {{ in_list('event_date', dates) }}
{%- endif %}
group by event_date, item_id
