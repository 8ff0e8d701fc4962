{{ config(schema='silver', partition_by=['event_date'], sort_by=['course_id', 'video_id']) }}

{#- What was watched up to an event depends on the event before it, on the same day or the day
    before: so a day is computed with the day before it, and touches the day after it. -#}
{%- set bronze = source('bronze', 'learning_video_events') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days([bronze], 'event_date', and_after=true) -%}
{%- endif %}

with events as (

    select
        *,
        "timestamp" as event_time,
        "position" as position_seconds,
        {{ within('playback_rate', 0.25, 4) }} as rate,
        coalesce(_ingest_date, event_date) as known_ingest_date
    from {{ bronze }}
    where
        event_id is not null
        and event_type is not null
        and {{ is_day('event_date') }}
        and {{ is_time('"timestamp"') }}
        and user_id is not null
        and course_id is not null
        and video_id is not null
        {%- if ingest_dates %}
        and {{ in_list('event_date', days_and_before(dates)) }}
        {%- endif %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by event_date, event_id
            order by
                {{ copy_order([
                    'session_id', 'device', 'seek_from', 'playback_rate', 'position_seconds',
                    'event_time', 'event_type', 'user_id',
                ]) }}
        ) as copy_number
    from events

),

followed as (

    select
        *,
        lag(event_date) over (view_order) as previous_date,
        lag(event_time) over (view_order) as previous_time,
        lag(event_type) over (view_order) as previous_type,
        lag(rate) over (view_order) as previous_rate,
        lag(position_seconds) over (view_order) as previous_position
    from numbered
    where copy_number = 1
    window view_order as (
        partition by user_id, session_id, video_id
        order by
            event_time,
            known_ingest_date,
            _partition nulls first,
            _offset nulls first,
            event_id
    )

),

-- What the positions claim, and what the player can have shown since: the time that passed at the
-- higher rate of both ends, since a change between them is not told; the recording's own if neither
-- names one.
stretches as (

    select
        *,
        case
            when
                previous_type in ('play', 'seek')
                and event_type <> 'play'
                and previous_date >= cast(event_date - interval '1' day as date)
                then cast(coalesce(seek_from, position_seconds) as double)
                    - cast(previous_position as double)
        end as advance,
        {{ seconds_between('previous_time', 'event_time') }} * greatest(
            coalesce(previous_rate, rate, 1e0), coalesce(rate, previous_rate, 1e0)
        ) as possible
    from followed

),

measured as (

    select
        *,
        coalesce(
            {{ safe_decimal('case when advance > 0 then advance end', 9, 3) }}, 0
        ) as claimed_seconds,
        coalesce(
            {{ safe_decimal(
                'case when advance > possible then possible when advance > 0 then advance end', 9, 3
            ) }}, 0
        ) as watched_seconds
    from stretches

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
    cast(watched_seconds as decimal(9, 3)) as watched_seconds,
    cast(claimed_seconds as decimal(9, 3)) as claimed_seconds,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from measured
{%- if ingest_dates %}
where {{ in_list('event_date', dates) }}
{%- endif %}
