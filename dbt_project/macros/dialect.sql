{# What DuckDB and Trino say differently; models use these, and otherwise only what both know. #}

{# The text at a top-level key of JSON text; null when it is absent or the text is not JSON. #}
{% macro json_text(column, key) -%}
  {{ adapter.dispatch('json_text')(column, key) }}
{%- endmacro %}

{% macro duckdb__json_text(column, key) -%}
  case when json_valid({{ column }}) then json_extract_string({{ column }}, '$.{{ key }}') end
{%- endmacro %}

{% macro trino__json_text(column, key) -%}
  json_extract_scalar({{ column }}, '$.{{ key }}')
{%- endmacro %}


{# JSON text without blanks between its tokens; what is no JSON as it is. #}
{% macro minified(column) -%}
  {{ adapter.dispatch('minified')(column) }}
{%- endmacro %}

{% macro duckdb__minified(column) -%}
  case when json_valid({{ column }}) then cast(json({{ column }}) as varchar) else {{ column }} end
{%- endmacro %}

{% macro trino__minified(column) -%}
  case
    when try(json_parse({{ column }})) is null then {{ column }}
    else regexp_replace({{ column }}, '("(?:[^"\\]|\\.)*")|\s+', '$1')
  end
{%- endmacro %}


{# Seconds from one timestamp to a later one, as a double with fractions. #}
{% macro seconds_between(start, end) -%}
  {{ adapter.dispatch('seconds_between')(start, end) }}
{%- endmacro %}

{% macro duckdb__seconds_between(start, end) -%}
  (epoch({{ end }}) - epoch({{ start }}))
{%- endmacro %}

{% macro trino__seconds_between(start, end) -%}
  (to_unixtime({{ end }}) - to_unixtime({{ start }}))
{%- endmacro %}


{# A timestamp some hours later; fractions count down to the second. #}
{% macro plus_hours(timestamp, hours) -%}
  {{ adapter.dispatch('plus_hours')(timestamp, hours) }}
{%- endmacro %}

{% macro duckdb__plus_hours(timestamp, hours) -%}
  ({{ timestamp }} + to_seconds(cast(floor({{ hours }} * 3600) as bigint)))
{%- endmacro %}

{% macro trino__plus_hours(timestamp, hours) -%}
  date_add('second', cast(floor({{ hours }} * 3600) as bigint), {{ timestamp }})
{%- endmacro %}


{# MD5 of some columns, 32 hex digits, the same on every engine; null is not the empty text. #}
{% macro key_of(columns) -%}
  {%- set texts = [] -%}
  {%- for column in columns -%}
    {%- do texts.append("coalesce(cast(" ~ column ~ " as varchar), chr(30))") -%}
  {%- endfor -%}
  {{ adapter.dispatch('md5_hex')(texts | join(' || chr(31) || ')) }}
{%- endmacro %}

{% macro duckdb__md5_hex(text) -%}
  md5({{ text }})
{%- endmacro %}

{% macro trino__md5_hex(text) -%}
  lower(to_hex(md5(to_utf8({{ text }}))))
{%- endmacro %}


{# A timestamp as text with six digits of fraction. #}
{% macro timestamp_text(column) -%}
  {{ adapter.dispatch('timestamp_text')(column) }}
{%- endmacro %}

{% macro duckdb__timestamp_text(column) -%}
  strftime({{ column }}, '%Y-%m-%d %H:%M:%S.%f')
{%- endmacro %}

{% macro trino__timestamp_text(column) -%}
  cast(cast({{ column }} as timestamp(6)) as varchar)
{%- endmacro %}


{#
  A join of each row with the objects in one of its arrays, as columns of `alias`; a row without
  any stays, with nulls. `columns` names all fields of the objects, in order.
#}
{% macro join_objects(array, alias, columns) -%}
  {{ adapter.dispatch('join_objects')(array, alias, columns) }}
{%- endmacro %}

{% macro duckdb__join_objects(array, alias, columns) -%}
  left join lateral (
    select
      {%- for column in columns %} item.{{ column }} as {{ column }}{{ ',' if not loop.last }}
      {%- endfor %}
    from (select unnest({{ array }}) as item)
  ) as {{ alias }} on true
{%- endmacro %}

{% macro trino__join_objects(array, alias, columns) -%}
  left join unnest({{ array }}) as {{ alias }} ({{ columns | join(', ') }}) on true
{%- endmacro %}
