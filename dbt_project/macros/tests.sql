{# No two rows agree in all of the columns; nulls count as equal. #}
{% test unique_combination(model, columns) %}
  select {{ columns | join(', ') }}, count(*) as copies
  from {{ model }}
  group by {{ columns | join(', ') }}
  having count(*) > 1
{% endtest %}


{#
  A column has no value that computations take as null (see values.sql); `used` is the expression
  that they compute with. A warning: the models go on without such values.
#}
{% test taken_as_null(model, column_name, used) %}
  {{ config(severity='warn') }}
  select {{ column_name }}
  from {{ model }}
  where {{ column_name }} is not null and ({{ used }}) is null
{% endtest %}


{# Attributes are JSON that the engine reads, and a service level that they state is used. #}
{% test attributes_read(model, column_name) %}
  {{ config(severity='warn') }}
  select {{ column_name }}
  from {{ model }}
  where
    {{ column_name }} is not null
    and (
      not {{ is_json(column_name) }}
      or ({{ json_text(column_name, 'sla_hours') }} is not null and sla_hours is null)
    )
{% endtest %}
