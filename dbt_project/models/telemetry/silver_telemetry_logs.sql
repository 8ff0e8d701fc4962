{{ config(schema='silver', partition_by=['log_date'], sort_by=['service', 'log_time']) }}

{#- All copies of an entry share its day. -#}
{%- set bronze = source('bronze', 'telemetry_app_logs') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days([bronze], 'log_date') -%}
{%- endif %}

with entries as (

    select
        *,
        "timestamp" as log_time,
        coalesce(_ingest_date, log_date) as known_ingest_date,
        {{ key_of([
            'log_date', timestamp_text('"timestamp"'), 'level', 'service', 'host', 'message',
            'trace_id', 'fields',
        ]) }} as entry_key
    from {{ bronze }}
    where
        {{ is_time('"timestamp"') }}
        and {{ is_day('log_date') }}
        and level is not null
        and service is not null
        {%- if ingest_dates %}
        and {{ in_list('log_date', dates) }}
        {%- endif %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by entry_key
            order by
                known_ingest_date,
                _partition nulls first,
                _offset nulls first,
                _topic_id nulls first
        ) as copy_number
    from entries

)

select
    entry_key,
    log_time,
    log_date,
    level,
    level in ('ERROR', 'FATAL') as is_error,
    service,
    host,
    message,
    trace_id,
    fields,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from numbered
where copy_number = 1
