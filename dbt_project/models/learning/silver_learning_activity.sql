{{ config(schema='silver', partition_by=['event_date'], sort_by=['user_id', 'event_time']) }}

{#- All copies of an event share its date. Topics start when they like: those that are not there
    yet have no events. -#}
{%- set topics, absent = {}, {} -%}
{%- for topic, (table, names_course) in learning_topics().items() -%}
  {#- All are named, so that the lineage has all of them. -#}
  {%- set bronze = source('bronze', table) -%}
  {%- do (topics if is_there(bronze) else absent).update({topic: (bronze, names_course)}) -%}
{%- endfor -%}
{#- Without any the query says what is missing. -#}
{%- set topics = topics or absent -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days(topics.values() | map('first') | list, 'event_date') -%}
{%- endif %}

with events as (
    {% for topic, (bronze, names_course) in topics.items() %}
    select
        '{{ topic }}' as topic,
        event_id,
        event_type,
        event_date,
        "timestamp" as event_time,
        user_id,
        session_id,
        device,
        {{ 'course_id' if names_course else 'cast(null as varchar)' }} as course_id,
        coalesce(_ingest_date, event_date) as known_ingest_date,
        _topic_id,
        _partition,
        _offset
    from {{ bronze }}
    where
        event_id is not null
        and event_type is not null
        and {{ is_day('event_date') }}
        and {{ is_time('"timestamp"') }}
        and user_id is not null
        {%- if ingest_dates %}
        and {{ in_list('event_date', dates) }}
        {%- endif %}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by topic, event_date, event_id
            order by
                {{ copy_order(
                    ['session_id', 'device', 'course_id', 'event_time', 'event_type', 'user_id']
                ) }}
        ) as copy_number
    from events

)

select
    event_id,
    topic,
    event_type,
    event_date,
    event_time,
    user_id,
    session_id,
    device,
    course_id,
    -- Notifications are sent and attempts are graded without the student.
    event_type not in ('sent', 'graded') as by_student,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from numbered
where copy_number = 1
