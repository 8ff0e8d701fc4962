{# What users do with items, and what each deed says of their interest: (view_mode, weight). #}
{% macro recomart_modes() %}
  {{ return({
      'views': ('view', 1),
      'add_to_carts': ('add_to_cart', 3),
      'purchases': ('purchase', 5),
  }) }}
{% endmacro %}

{# The names of all of them, as a list of SQL texts. #}
{% macro recomart_mode_names() -%}
  '{{ recomart_modes().values() | map('first') | join("', '") }}'
{%- endmacro %}


{# The counts of deeds, and the implicit score that they add up to. #}
{% macro recomart_counts(score) -%}
  {%- set terms = [] -%}
  {%- for name, (mode, weight) in recomart_modes().items() -%}
    {%- do terms.append(weight ~ " * count(*) filter (where view_mode = '" ~ mode ~ "')") %}
        count(*) filter (where view_mode = '{{ mode }}') as {{ name }},
  {%- endfor %}
        {{ terms | join(' + ') }} as {{ score }}
{%- endmacro %}
