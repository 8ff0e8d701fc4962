{{ config(schema='silver', partition_by=['event_date'], sort_by=['course_id', 'video_id']) }}

{#- What was watched up to an event depends on the event before it, on the same day or the day
    before: so a day is computed with the day before it, and touches the day after it. -#}
{%- set bronze = source('bronze', 'learning_video_events') -%}
{%- set windows = window_bounds() -%}
{%- if windows -%}
  {%- set dates = touched_days([bronze], 'event_date', and_after=true) -%}
{%- endif %}

with events as (

    select
        *,
        "timestamp" as event_time,
        "position" as position_seconds,
        coalesce(_window, event_date) as known_window
    from {{ bronze }}
    where
        event_id is not null
        and event_type is not null
        and event_date is not null
        and "timestamp" is not null
        and user_id is not null
        and course_id is not null
        and video_id is not null
        {%- if windows %}
        and {{ in_list('event_date', days_and_before(dates)) }}
        {%- endif %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by event_date, event_id
            order by
                known_window,
                _partition nulls first,
                _offset nulls first,
                _generation nulls first,
                event_time,
                event_type,
                user_id
        ) as copy_number
    from events

),

followed as (

    select
        *,
        lag(event_date) over (view_order) as previous_date,
        lag(event_type) over (view_order) as previous_type,
        lag(position_seconds) over (view_order) as previous_position
    from numbered
    where copy_number = 1
    window view_order as (
        partition by user_id, session_id, video_id
        order by
            event_time,
            known_window,
            _partition nulls first,
            _offset nulls first,
            event_id
    )

)

select
    event_id,
    event_type,
    event_date,
    event_time,
    user_id,
    session_id,
    device,
    course_id,
    video_id,
    position_seconds,
    duration as duration_seconds,
    seek_from as seek_from_seconds,
    playback_rate,
    cast(
        case
            when
                previous_type in ('play', 'seek')
                and event_type <> 'play'
                and previous_date >= cast(event_date - interval '1' day as date)
                then greatest(coalesce(seek_from, position_seconds) - previous_position, 0)
            else 0
        end as decimal(9, 3)
    ) as watched_seconds,
    known_window as _window,
    _generation,
    _partition,
    _offset
from followed
{%- if windows %}
where {{ in_list('event_date', dates) }}
{%- endif %}
