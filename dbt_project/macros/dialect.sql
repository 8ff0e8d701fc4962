{# What DuckDB and Trino say differently; models use these, and otherwise only what both know. #}

{#
  The text at a top-level key of JSON text; null when it is absent, holds an object or an array, or
  the text is not JSON that the engine reads (DuckDB reads no half of a surrogate pair). Of a key
  that stands there twice the first one counts.
#}
{% macro json_text(column, key) -%}
  {{ adapter.dispatch('json_text')(column, key) }}
{%- endmacro %}

{% macro duckdb__json_text(column, key) -%}
  case
    when
      json_valid({{ column }}) and json_type({{ column }}, '$.{{ key }}') not in ('OBJECT', 'ARRAY')
      then json_extract_string({{ column }}, '$.{{ key }}')
  end
{%- endmacro %}

{% macro trino__json_text(column, key) -%}
  json_extract_scalar({{ column }}, '$.{{ key }}')
{%- endmacro %}


{# Whether a text is JSON that the engine reads. #}
{% macro is_json(column) -%}
  {{ adapter.dispatch('is_json')(column) }}
{%- endmacro %}

{% macro duckdb__is_json(column) -%}
  json_valid({{ column }})
{%- endmacro %}

{% macro trino__is_json(column) -%}
  (try(json_parse({{ column }})) is not null)
{%- endmacro %}


{# JSON text without blanks between its tokens; what is no JSON as it is. #}
{% macro minified(column) -%}
  {{ adapter.dispatch('minified')(column) }}
{%- endmacro %}

{% macro duckdb__minified(column) -%}
  case when {{ duckdb__is_json(column) }} then cast(json({{ column }}) as varchar) else {{ column }} end
{%- endmacro %}

{% macro trino__minified(column) -%}
  case
    when not {{ trino__is_json(column) }} then {{ column }}
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


{#
  A timestamp some hours (of a century at most) later; fractions count down to the second. Null
  where the hours are more, and after the year 9999, which readers of the tables do not know.
#}
{% macro plus_hours(timestamp, hours) -%}
  {%- set later = adapter.dispatch('plus_hours')(
      within(timestamp, "timestamp '0001-01-01 00:00:00'", end_of_time()),
      within(hours, 0, century_in_hours())
  ) -%}
  case when {{ later }} <= {{ end_of_time() }} then {{ later }} end
{%- endmacro %}

{% macro century_in_hours() -%}
  876000
{%- endmacro %}

{% macro duckdb__plus_hours(timestamp, hours) -%}
  ({{ timestamp }} + to_seconds(cast(floor({{ hours }} * 3600) as bigint)))
{%- endmacro %}

{% macro trino__plus_hours(timestamp, hours) -%}
  date_add('second', cast(floor({{ hours }} * 3600) as bigint), {{ timestamp }})
{%- endmacro %}


{#
  MD5 of some columns, 32 hex digits, the same on every engine. Each text stands behind its length,
  so that no text of one column can look like those of two; null is not the empty text.
#}
{% macro key_of(columns) -%}
  {%- set texts = [] -%}
  {%- for column in columns -%}
    {%- set text = 'cast(' ~ column ~ ' as varchar)' -%}
    {%- do texts.append(
        'coalesce(cast(length(' ~ text ~ ") as varchar) || ':' || " ~ text ~ ", '-')"
    ) -%}
  {%- endfor -%}
  {{ adapter.dispatch('md5_hex')(texts | join(' || ')) }}
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
