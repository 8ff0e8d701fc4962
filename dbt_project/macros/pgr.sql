{# The name of a step without what spellings differ in. #}
{% macro step_name(event_type) -%}
  replace(replace(replace(lower({{ event_type }}), '_', ''), '-', ''), ' ', '')
{%- endmacro %}


{# JSON text as a load stores it, also of a row that somebody inserted by SQL. #}
{% macro own_json(column) -%}
  case when _offset is null then {{ minified(column) }} else {{ column }} end
{%- endmacro %}


{#
  The time as of which open cases are evaluated: the latest event time of all cases. What was stamped
  later than the day after its arrival says nothing of the present, and is left out.
#}
{% macro pgr_as_of(silver) -%}
  select max(event_time) as as_of
    from {{ silver }}
    where event_date <= cast(_ingest_date + interval '1' day as date)
{%- endmacro %}


{# Columns of the funnel and which cases each counts: those that were at the stage at least once. #}
{% macro pgr_funnel_stages() %}
  {{ return({
      'cases': '1 = 1',
      'submitted': 'submitted_at is not null',
      'assigned': 'assigned_at is not null',
      'in_progress': 'in_progress_at is not null',
      'resolved': 'first_resolved_at is not null',
      'closed': 'closed_at is not null',
      'rejected': 'rejected_at is not null',
      'reopened': 'reopen_count > 0',
  }) }}
{% endmacro %}

{# Cases by day of opening, tenant and ward; all days, or those of a condition. #}
{% macro pgr_funnel_counts(lifecycle, condition=none) -%}
  select
        opened_date,
        tenant_id,
        ward_id,
        {%- for column, stage in pgr_funnel_stages().items() %}
        count(*) filter (where {{ stage }}) as {{ column }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ lifecycle }}
    {%- if condition %}
    where {{ condition }}
    {%- endif %}
    group by opened_date, tenant_id, ward_id
{%- endmacro %}
