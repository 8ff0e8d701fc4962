{{ config(schema='gold', sort_by=['user_id', 'item_id']) }}

{#- A pair is recomputed from all of its interactions, whatever their ingest dates. -#}
{%- set silver = ref('silver_recomart_transactions') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set queries = [
      'select user_id, item_id from ' ~ silver ~ ' where ' ~ in_ingest_dates('_ingest_date'),
  ] -%}
  {#- Pairs that had interactions in these ingest dates, and may have them no more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select user_id, item_id from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
    {#- Silver takes a day as a whole, also what later ingest dates have of it by now. -#}
    {%- do queries.append(
        'select coalesce(s.user_id, g.user_id) as user_id, '
        ~ 'coalesce(s.item_id, g.item_id) as item_id '
        ~ 'from (select user_id, item_id, count(*) as interactions from ' ~ silver
        ~ ' group by user_id, item_id) as s full outer join ' ~ this ~ ' as g '
        ~ 'on s.user_id = g.user_id and s.item_id = g.item_id '
        ~ 'where coalesce(s.interactions, 0) <> coalesce(g.interactions, 0)'
    ) -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- do queries.append('select user_id, item_id from ' ~ silver) -%}
  {%- endif -%}
  {%- set keys = touched_keys(['user_id', 'item_id'], queries) -%}
  {%- set dates = dates_of(
      'select distinct s.event_date from ' ~ silver ~ ' as s inner join (' ~ keys
      ~ ') as k on s.user_id = k.user_id and s.item_id = k.item_id'
  ) -%}
{%- endif %}

with steps as (

    select
        s.*,
        row_number() over (
            partition by s.user_id, s.item_id
            order by
                s.event_time,
                s._ingest_date,
                s._partition nulls first,
                s._offset nulls first,
                s.interaction_key
        ) as step
    from {{ silver }} as s
    {%- if ingest_dates %}
    inner join ({{ keys }}) as k on s.user_id = k.user_id and s.item_id = k.item_id
    where {{ in_list('s.event_date', dates) }}
    {%- endif %}

)

select
    user_id,
    item_id,
    {{ recomart_counts('implicit_score') }},
    max_by(rating, step) filter (where rating is not null) as rating,
    count(*) as interactions,
    min(event_time) as first_interaction_at,
    max(event_time) as last_interaction_at,
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from steps
group by user_id, item_id
