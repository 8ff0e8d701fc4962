{{ config(schema='gold', partition_by=['month(event_date)'], sort_by=['event_date']) }}

{%- set silver = ref('silver_learning_activity') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days_of_gold(silver, 'event_date') -%}
{%- endif %}

select
    event_date,
    count(distinct user_id) filter (where by_student) as active_students,
    count(distinct user_id) filter (where event_type = 'signup') as new_students,
    count(distinct user_id) filter (where topic = 'video') as watching_students,
    count(distinct user_id) filter (where topic = 'course') as course_students,
    count(distinct user_id) filter (where topic = 'assessment' and by_student)
        as assessed_students,
    count(distinct session_id) as sessions,
    count(*) filter (where by_student) as student_events,
    count(*) as events,
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from {{ silver }}
{%- if ingest_dates %}
where {{ in_list('event_date', dates) }}
{%- endif %}
group by event_date
