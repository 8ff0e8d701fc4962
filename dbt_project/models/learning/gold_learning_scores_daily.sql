{{ config(schema='gold', partition_by=['month(graded_date)'], sort_by=['graded_date', 'course_id']) }}

{#-
  A regrading on another day takes an attempt away from a day without an event of that day in the
  run's ingest dates, so the days to replace are those whose numbers differ from the table's, which
  costs one scan of narrow columns.
-#}
{%- set attempts = ref('silver_learning_attempts') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set fresh = learning_scores(attempts) -%}
  {%- if this_exists() -%}
    {%- set stored = 'select ' ~ learning_score_columns() | join(', ') ~ ' from ' ~ this -%}
    {%- set queries = [
        'select graded_date from (' ~ fresh ~ ' except ' ~ stored ~ ') as gained',
        'select graded_date from (' ~ stored ~ ' except ' ~ fresh ~ ') as lost',
    ] -%}
  {%- else -%}
    {%- set queries = ['select graded_date from ' ~ attempts] -%}
  {%- endif -%}
  {%- set dates = touched_values('graded_date', queries) -%}
{%- endif %}

with scores as (

    {{ learning_scores(attempts, in_list('graded_date', dates) if ingest_dates else none) }}

)

select
    {{ learning_score_columns() | join(',\n    ') }},
    {{ share('total_share', 'attempts_with_share') }} as mean_share
from scores
