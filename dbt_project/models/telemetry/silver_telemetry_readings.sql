{{ config(schema='silver', partition_by=['reading_date'], sort_by=['sensor_id', 'metric']) }}

{#- All versions of a reading share its day. -#}
{%- set bronze = source('bronze', 'telemetry_sensor_readings') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days([bronze], 'reading_date') -%}
{%- endif %}

with readings as (

    select
        *,
        coalesce(_ingest_date, reading_date) as known_ingest_date
    from {{ bronze }}
    where
        sensor_id is not null
        and metric is not null
        and {{ is_time('reading_time') }}
        and {{ is_day('reading_date') }}
        and value is not null
        {%- if ingest_dates %}
        and {{ in_list('reading_date', dates) }}
        {%- endif %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by reading_date, sensor_id, metric, reading_time
            order by
                known_ingest_date desc,
                _partition desc nulls last,
                _offset desc nulls last,
                _topic_id desc nulls last,
                value,
                unit
        ) as newness,
        count(*) over (partition by reading_date, sensor_id, metric, reading_time) as version_count
    from readings

)

select
    sensor_id,
    metric,
    reading_time,
    reading_date,
    value,
    unit,
    version_count,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from numbered
where newness = 1
