{{ config(schema='gold', partition_by=['month(event_date)'], sort_by=['event_date', 'course_id']) }}

{#- An event changes what is watched up to the next one, which may be on the day after it. -#}
{%- set silver = ref('silver_learning_video_events') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days_of_gold(silver, 'event_date', and_after=true) -%}
{%- endif %}

select
    event_date,
    course_id,
    sum(watched_seconds) as watched_seconds,
    count(*) filter (where claimed_seconds > watched_seconds) as capped_stretches,
    count(distinct user_id) as viewers,
    count(distinct video_id) as videos,
    count(*) filter (where event_type = 'play') as plays,
    count(*) filter (where event_type = 'complete') as completions,
    count(*) as events,
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from {{ silver }}
{%- if ingest_dates %}
where {{ in_list('event_date', dates) }}
{%- endif %}
group by event_date, course_id
