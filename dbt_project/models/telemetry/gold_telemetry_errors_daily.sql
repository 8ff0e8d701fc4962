{{ config(schema='gold', partition_by=['month(log_date)'], sort_by=['log_date', 'service']) }}

{%- set silver = ref('silver_telemetry_logs') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
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
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from {{ silver }}
{%- if ingest_dates %}
where {{ in_list('log_date', dates) }}
{%- endif %}
group by log_date, service
