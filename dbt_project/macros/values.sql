{#
  Values that models compute with. A contract bounds what its records hold, but SQL can insert any
  value of a column's type, and a contract can change: what a computation cannot take becomes null
  here, never an error. The test taken_as_null counts such values.
#}

{# A number as a decimal, rounded; null where it has too many digits, is infinite or NaN. #}
{% macro safe_decimal(expression, precision, scale) -%}
  try_cast({{ expression }} as decimal({{ precision }}, {{ scale }}))
{%- endmacro %}


{# A number or a time within two limits; null outside of them, and for NaN. #}
{% macro within(expression, low, high) -%}
  case when {{ expression }} between {{ low }} and {{ high }} then {{ expression }} end
{%- endmacro %}


{# part / whole as a double; null where the whole is null or 0. #}
{% macro share(part, whole) -%}
  cast({{ part }} as double) / nullif(cast({{ whole }} as double), 0e0)
{%- endmacro %}


{# Whether a date column has a day that every reader of the tables can hold: years 1 to 9999. #}
{% macro is_day(column) -%}
  {{ column }} between date '0001-01-01' and date '9999-12-31'
{%- endmacro %}


{# The same for a timestamp column. #}
{% macro is_time(column) -%}
  {{ column }} between timestamp '0001-01-01 00:00:00' and {{ end_of_time() }}
{%- endmacro %}

{% macro end_of_time() -%}
  timestamp '9999-12-31 23:59:59.999999'
{%- endmacro %}


{#
  The order of the copies of one thing, the one that stands first: that which says most (which has
  most of the optional columns), of equal ones the latest to arrive. So a delivery that is sent
  again with a field more replaces the one before, and one that lacks a field does not.

  Rows that were inserted by SQL have no place in the log; the columns themselves order them.
#}
{% macro copy_order(optional) -%}
  {%- for column in optional -%}
    case when {{ column }} is null then 0 else 1 end {{ '+ ' if not loop.last }}
  {%- endfor -%}
  desc,
  known_ingest_date desc,
  _partition desc nulls last,
  _offset desc nulls last,
  _topic_id desc nulls last
  {%- for column in optional -%}
    , {{ column }} nulls last
  {%- endfor -%}
{%- endmacro %}
