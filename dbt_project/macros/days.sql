{#
  Models of whole days: a row belongs to the day that a date column says, and a day is recomputed
  without the others (or with the day before it). See ingest_dates.sql.
#}

{#
  The days of a silver model that the run's ingest dates touched in any of some bronze tables, as ISO
  dates; the run replaces them. `day` is the date column, in bronze and in the model. With
  `and_after` the day after each of them too: for rows that know the row before them.
#}
{% macro touched_days(tables, day, and_after=false) %}
  {%- set queries = [] -%}
  {%- for table in tables -%}
    {#- Two selects, since an OR over two columns is pushed into the scan by neither engine. -#}
    {%- do queries.append('select ' ~ day ~ ' from ' ~ table ~ ' where ' ~ in_ingest_dates('_ingest_date')) -%}
    {%- do queries.append(
        'select ' ~ day ~ ' from ' ~ table ~ ' where _ingest_date is null and ' ~ in_ingest_dates(day)
    ) -%}
  {%- endfor -%}
  {#- Days whose rows left bronze since (a contract edit) are known to silver only. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select ' ~ day ~ ' from ' ~ this ~ ' where ' ~ in_ingest_dates('_ingest_date')) -%}
  {%- endif -%}
  {{ return(touched_values(day, with_days_after(queries, day) if and_after else queries)) }}
{% endmacro %}


{#
  The same for a gold model: of the silver model whose `_ingest_date` says where each row came from,
  and of its own rows, which know their first_ingest_date and last_ingest_date.
#}
{% macro touched_days_of_gold(silver, day, and_after=false) %}
  {%- set queries = ['select ' ~ day ~ ' from ' ~ silver ~ ' where ' ~ in_ingest_dates('_ingest_date')] -%}
  {#- Days that had rows of these ingest dates, and may have them no more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select ' ~ day ~ ' from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- do queries.append('select ' ~ day ~ ' from ' ~ silver) -%}
  {%- endif -%}
  {{ return(touched_values(day, with_days_after(queries, day) if and_after else queries)) }}
{% endmacro %}


{% macro with_days_after(queries, day) %}
  {%- set all = [] -%}
  {%- for query in queries -%}
    {%- do all.append(query) -%}
    {%- do all.append(
        'select case when ' ~ day ~ " < date '9999-12-31' then cast(" ~ day
        ~ " + interval '1' day as date) end from (" ~ query ~ ') as found'
    ) -%}
  {%- endfor -%}
  {{ return(all) }}
{% endmacro %}


{# The days before some ISO dates, and these. #}
{% macro days_and_before(dates) %}
  {%- set all = [] -%}
  {%- for date in dates -%}
    {%- set day = modules.datetime.date.fromisoformat(date) -%}
    {%- if day > modules.datetime.date.min -%}
      {%- do all.append((day - modules.datetime.timedelta(days=1)).isoformat()) -%}
    {%- endif -%}
    {%- do all.append(date) -%}
  {%- endfor -%}
  {{ return(all | unique | sort) }}
{% endmacro %}
