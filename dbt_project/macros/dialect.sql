{# SQL that differs between engines. Models use these macros, and otherwise only common SQL. #}

{#
  The text at a top-level key of JSON text. Null if the key is missing, its value is an object or an
  array, or the engine cannot parse the text (DuckDB rejects half of a surrogate pair). Of a repeated
  key the first one counts.
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


{# Whether the engine can parse a text as JSON. #}
{% macro is_json(column) -%}
  {{ adapter.dispatch('is_json')(column) }}
{%- endmacro %}

{% macro duckdb__is_json(column) -%}
  json_valid({{ column }})
{%- endmacro %}

{% macro trino__is_json(column) -%}
  (try(json_parse({{ column }})) is not null)
{%- endmacro %}


{# JSON text without whitespace between tokens; other text unchanged. #}
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
  A timestamp plus hours (0 to a century), to the second. Null for other hours, and for results after
  the year 9999, which readers of the tables do not support.
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
  MD5 of columns as 32 hex digits, equal on every engine. Each text follows its length, so that
  different columns never give the same input; null differs from the empty text.
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


{# A timestamp as text with six fractional digits. #}
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
  Join each row with the objects in one of its arrays, as columns of `alias`. A row without objects
  stays, with nulls. `columns` names all fields of the objects, in order.
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


{# The type of an array of objects with these fields (name: type), in order. #}
{% macro objects_type(fields) -%}
  {%- set columns = [] -%}
  {%- for name, type in fields.items() -%}
    {%- do columns.append(name ~ ' ' ~ type) -%}
  {%- endfor -%}
  {{ adapter.dispatch('objects_type')(columns | join(', ')) }}
{%- endmacro %}

{% macro duckdb__objects_type(columns) -%}
  struct({{ columns }})[]
{%- endmacro %}

{% macro trino__objects_type(columns) -%}
  array(row({{ columns }}))
{%- endmacro %}
