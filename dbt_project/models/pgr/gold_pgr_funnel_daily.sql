{{ config(schema='gold', partition_by=['month(opened_date)'], sort_by=['opened_date']) }}

{#-
  A day's row depends on the lifecycle alone. A case can move from one day to another without an
  event in the ingest dates of the run (its submission was taken back), so the days to replace are
  those whose counts differ from the table's, which costs one scan of narrow columns.
-#}
{%- set lifecycle = ref('gold_pgr_case_lifecycle') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set fresh = pgr_funnel_counts(lifecycle) -%}
  {%- if this_exists() -%}
    {%- set stored = 'select opened_date, tenant_id, ward_id, '
        ~ pgr_funnel_stages().keys() | join(', ') ~ ' from ' ~ this -%}
    {%- set queries = [
        'select opened_date from (' ~ fresh ~ ' except ' ~ stored ~ ') as gained',
        'select opened_date from (' ~ stored ~ ' except ' ~ fresh ~ ') as lost',
    ] -%}
  {%- else -%}
    {%- set queries = ['select opened_date from ' ~ lifecycle] -%}
  {%- endif -%}
  {%- set dates = touched_values('opened_date', queries) -%}
{%- endif %}

with counts as (

    {{ pgr_funnel_counts(lifecycle, in_list('opened_date', dates) if ingest_dates else none) }}

)

select
    opened_date,
    tenant_id,
    ward_id,
    cases,
    submitted,
    assigned,
    in_progress,
    resolved,
    closed,
    rejected,
    reopened,
    cast(assigned as double) / cases as assigned_rate,
    cast(in_progress as double) / nullif(assigned, 0) as in_progress_rate,
    cast(resolved as double) / nullif(in_progress, 0) as resolved_rate,
    cast(closed as double) / nullif(resolved, 0) as closed_rate,
    cast(resolved as double) / cases as resolution_rate,
    cast(rejected as double) / cases as rejection_rate,
    cast(reopened as double) / nullif(resolved, 0) as reopen_rate
from counts
