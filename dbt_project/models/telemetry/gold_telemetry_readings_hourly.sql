{{ config(schema='gold', partition_by=['reading_date'], sort_by=['sensor_id', 'metric']) }}

{%- set silver = ref('silver_telemetry_readings') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set dates = touched_days_of_gold(silver, 'reading_date') -%}
{%- endif %}

-- Sums are of decimals: those of doubles depend on the order of the rows.
select
    reading_date,
    date_trunc('hour', reading_time) as reading_hour,
    sensor_id,
    metric,
    unit,
    count(*) as readings,
    min(value) as lowest,
    max(value) as highest,
    {{ share('sum(' ~ safe_decimal('value', 18, 6) ~ ')',
             'count(' ~ safe_decimal('value', 18, 6) ~ ')') }} as mean,
    max_by(value, reading_time) as latest,
    max(reading_time) as latest_at,
    min(_ingest_date) as first_ingest_date,
    max(_ingest_date) as last_ingest_date
from {{ silver }}
{%- if ingest_dates %}
where {{ in_list('reading_date', dates) }}
{%- endif %}
group by reading_date, date_trunc('hour', reading_time), sensor_id, metric, unit
