{{ config(schema='silver', sort_by=['attempt_id']) }}

{#- An attempt is recomputed from all of its events, whatever their ingest dates. -#}
{%- set bronze = source('bronze', 'learning_assessment_events') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {#- Two selects, since an OR over two columns is pushed into the scan by neither engine. -#}
  {%- set queries = [
      'select attempt_id from ' ~ bronze ~ ' where attempt_id is not null and '
      ~ in_ingest_dates('_ingest_date'),
      'select attempt_id from ' ~ bronze ~ ' where attempt_id is not null and _ingest_date is null and '
      ~ in_ingest_dates('event_date'),
  ] -%}
  {#- Attempts that had events in these ingest dates, and may have them no more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select attempt_id from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
  {%- endif -%}
  {%- set keys = touched_keys(['attempt_id'], queries) -%}
  {%- set dates = dates_of(
      'select distinct b.event_date from ' ~ bronze ~ ' as b inner join (' ~ keys
      ~ ') as k on b.attempt_id = k.attempt_id'
  ) -%}
{%- endif %}

with events as (

    select
        b.*,
        b."timestamp" as event_time,
        coalesce(b._ingest_date, b.event_date) as known_ingest_date,
        row_number() over (
            partition by b.attempt_id
            order by
                b."timestamp",
                coalesce(b._ingest_date, b.event_date),
                b._partition nulls first,
                b._offset nulls first,
                b.event_id
        ) as step
    from {{ bronze }} as b
    {%- if ingest_dates %}
    inner join ({{ keys }}) as k on b.attempt_id = k.attempt_id
    {%- endif %}
    where
        b.attempt_id is not null
        and b.event_id is not null
        and {{ is_day('b.event_date') }}
        and {{ is_time('b."timestamp"') }}
        {%- if ingest_dates %}
        and {{ in_list('b.event_date', dates) }}
        {%- endif %}

),

attempts as (

    select
        attempt_id,
        max_by(assessment_id, step) filter (where assessment_id is not null) as assessment_id,
        max_by(assessment_type, step) filter (where assessment_type is not null) as assessment_type,
        max_by(course_id, step) filter (where course_id is not null) as course_id,
        max_by(user_id, step) filter (where user_id is not null) as user_id,
        min(event_time) filter (where event_type = 'started') as started_at,
        max(event_time) filter (where event_type = 'submitted') as submitted_at,
        max(event_time) filter (where event_type = 'graded') as graded_at,
        max(event_date) filter (where event_type = 'graded') as graded_date,
        max_by(score, step) filter (where event_type = 'graded' and score is not null) as score,
        coalesce(
            max_by(max_score, step) filter (where event_type = 'graded' and score is not null),
            max_by(max_score, step) filter (where max_score is not null)
        ) as max_score,
        count(distinct event_id) filter (where event_type = 'graded') as grades,
        min(known_ingest_date) as first_ingest_date,
        max(known_ingest_date) as last_ingest_date
    from events
    group by attempt_id

)

select
    attempt_id,
    assessment_id,
    assessment_type,
    course_id,
    user_id,
    started_at,
    submitted_at,
    graded_at,
    graded_date,
    score,
    max_score,
    {{ share('score', 'max_score') }} as score_share,
    grades,
    first_ingest_date,
    last_ingest_date
from attempts
