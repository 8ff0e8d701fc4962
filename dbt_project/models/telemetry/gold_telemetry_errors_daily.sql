{{ config(schema='gold', partition_by=['month(log_date)'], sort_by=['log_date', 'service']) }}

{%- set silver = ref('silver_telemetry_logs') -%}
{%- set windows = window_bounds() -%}
{%- if windows -%}
  {%- set dates = touched_days_of_gold(silver, 'log_date') -%}
{%- endif %}

select
    log_date,
    service,
    count(*) as entries,
    count(*) filter (where level = 'WARN') as warnings,
    count(*) filter (where is_error) as errors,
    count(*) filter (where level = 'FATAL') as fatal_errors,
    cast(count(*) filter (where is_error) as double) / count(*) as error_share,
    count(distinct trace_id) as traces,
    count(distinct trace_id) filter (where is_error) as failed_traces,
    count(distinct host) as hosts,
    max(log_time) filter (where is_error) as last_error_at,
    min(_window) as first_window,
    max(_window) as last_window
from {{ silver }}
{%- if windows %}
where {{ in_list('log_date', dates) }}
{%- endif %}
group by log_date, service
