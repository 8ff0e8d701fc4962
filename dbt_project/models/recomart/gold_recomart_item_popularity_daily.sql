{{ config(schema='gold', partition_by=['month(event_date)'], sort_by=['event_date', 'item_id']) }}

{%- set silver = ref('silver_recomart_transactions') -%}
{%- if window_bounds() -%}
  {%- set dates = touched_days_of_gold(silver, 'event_date') -%}
{%- endif %}

select
    event_date,
    item_id,
    {{ recomart_counts('popularity_score') }},
    count(distinct user_id) as users,
    count(rating) as ratings,
    cast(sum(rating) as double) / nullif(count(rating), 0) as mean_rating,
    min(_window) as first_window,
    max(_window) as last_window
from {{ silver }}
{%- if window_bounds() %}
where {{ in_list('event_date', dates) }}
{%- endif %}
group by event_date, item_id
