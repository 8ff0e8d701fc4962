{#
  The materialization of every model: write an Iceberg table in one commit. Replace all rows, or
  only the touched ones if the model calls touched_values() or touched_keys().

  Config: partition_by (columns, or year(), month(), day(), hour() of one), sort_by.
#}
{% materialization iceberg, adapter='duckdb' %}
  {%- set relation = this.incorporate(type='table') -%}
  {{ run_hooks(pre_hooks) }}

  {%- set descriptions = {} -%}
  {%- for column in model.columns.values() -%}
    {%- do descriptions.update({column.name: column.description}) -%}
  {%- endfor -%}
  {%- set outcome = {} -%}
  {%- do write(sql) -%}
  {%- do adapter.store_relation('iceberg', relation, [], '', 'iceberg', {
      'sql': sql,
      'touched': touched(),
      'partition_by': config.get('partition_by', []),
      'sort_by': config.get('sort_by', []),
      'comment': model.description,
      'descriptions': descriptions,
      'outcome': outcome,
  }) -%}
  {%- do store_raw_result('main', message=outcome.message, code=outcome.code,
                          rows_affected=outcome.rows_affected) -%}

  {{ run_hooks(post_hooks) }}
  {{ return({'relations': [relation]}) }}
{% endmaterialization %}


{# Use the namespace that the model names, without the target's prefix. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}


{# Open each table first, because `dbt docs generate` lists only opened ones. #}
{% macro duckdb__get_catalog_relations(information_schema, relations) -%}
  {%- for relation in relations -%}
    {%- do adapter.get_columns_in_relation(relation) -%}
  {%- endfor -%}
  {{ return(dbt.duckdb__get_catalog_relations(information_schema, relations)) }}
{%- endmacro %}
