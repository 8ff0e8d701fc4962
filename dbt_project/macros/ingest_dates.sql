{#
  Which part of a model a run recomputes.

  The vars ingest_date_start and ingest_date_end (dates, the end excluded) name the ingest dates of bronze that
  the run handles; without them everything is rebuilt. A model works out what those ingest dates
  touched and hands it to touched_values() or touched_keys(), which tell the materialization what
  to replace. In such a run the rows touched are computed as in a full one, from all their input.
#}

{# [start, end) as ISO dates, or none for a full rebuild. #}
{% macro ingest_date_bounds() %}
  {%- set start, end = var('ingest_date_start', none), var('ingest_date_end', none) -%}
  {%- if flags.FULL_REFRESH or (start is none and end is none) -%}
    {{ return(none) }}
  {%- endif -%}
  {%- if start is none or end is none -%}
    {%- do exceptions.raise_compiler_error('give both vars, ingest_date_start and ingest_date_end (excluded)') -%}
  {%- endif -%}
  {%- set dates = [] -%}
  {%- for text in [start, end] -%}
    {%- if not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', text | string) -%}
      {%- do exceptions.raise_compiler_error('not a date like 2026-01-31: ' ~ text) -%}
    {%- endif -%}
    {%- do dates.append(text | string) -%}
  {%- endfor -%}
  {{ return(dates) }}
{% endmacro %}


{# Whether a date column lies in the run's ingest dates. #}
{% macro in_ingest_dates(column) -%}
  {%- set bounds = ingest_date_bounds() -%}
  {{ column }} >= date '{{ bounds[0] }}' and {{ column }} < date '{{ bounds[1] }}'
{%- endmacro %}


{# Whether the table that this model builds is there already. #}
{% macro this_exists() %}
  {{ return(execute and adapter.get_columns_in_relation(this) | length > 0) }}
{% endmacro %}


{#
  The values of a date column whose rows this run replaces, as a list of ISO dates: what the
  queries give, each with one column. They are written into the model as literals (see in_list),
  which both engines prune by.
#}
{% macro touched_values(column, queries) %}
  {%- set dates = dates_of(queries | join('\nunion\n')) -%}
  {%- do _touch({'column': column, 'values': dates}) -%}
  {{ return(dates) }}
{% endmacro %}


{# The dates that a query of one column gives, as ISO texts in order; see is_day. #}
{% macro dates_of(query) %}
  {%- set dates = [] -%}
  {%- if execute -%}
    {%- for value in run_query(query).columns[0].values() if value is not none -%}
      {%- if modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', value | string) -%}
        {%- do dates.append(value | string) -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{ return(dates | sort) }}
{% endmacro %}


{#
  The keys whose rows this run replaces, as the query that finds them. A key that it finds and
  that the model's result lacks is removed.
#}
{% macro touched_keys(keys, queries) %}
  {#- Each key once, also when there is one query: the models join with it. -#}
  {%- set query = 'select distinct * from (' ~ queries | join('\nunion\n') ~ ') as found' -%}
  {%- do _touch({'keys': keys, 'sql': query}) -%}
  {{ return(query) }}
{% endmacro %}


{# column in (dates), and false for no date at all. #}
{% macro in_list(column, dates) -%}
  {%- if dates -%}
    {{ column }} in (
      {%- for date in dates %}date '{{ date }}'{{ ', ' if not loop.last }}{% endfor -%}
    )
  {%- else -%}
    1 = 0
  {%- endif -%}
{%- endmacro %}


{# A model is rendered before it is materialized, in another context: the node carries it over. #}
{% macro _touch(what) %}
  {%- if execute -%}
    {%- do config.model.config.meta.update({'touched': what}) -%}
  {%- endif -%}
{% endmacro %}

{% macro touched() %}
  {{ return(config.model.config.meta.pop('touched', none)) }}
{% endmacro %}
