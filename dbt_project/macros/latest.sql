{#
  Things of which the latest version counts: what their silver models share.

  A version is a row of bronze; a thing's row in silver knows the ingest dates that its versions came
  in (first_ingest_date, last_ingest_date), so that a run finds the things whose versions came or went.
#}

{#
  The query of all versions of the things that the run's ingest dates touched, or of all things: the
  columns of bronze and

    known_ingest_date    ingest date of the version
    newness         1 for the latest, by the given order, then by arrival
    copy_number     above 1 for a copy: a version that agrees with another one in `same_version`
    version_count, first_ingest_date, last_ingest_date    of the thing; copies do not count

  It declares what the run replaces (see touched_keys). `day` names the date column that bronze is
  partitioned by; it stands in for the ingest date of rows that were inserted by SQL. Where bronze has
  none, such rows are looked at in every run, and count as older than all others.
#}
{% macro versions_of(bronze, key, newest_first=[], day=none, same_version=[]) %}
  {%- set ingest_dates = ingest_date_bounds() -%}
  {%- if ingest_dates -%}
    {%- set inserted = in_ingest_dates(day) if day else '1 = 1' -%}
    {#- Two selects, since an OR over two columns is pushed into the scan by neither engine. -#}
    {%- set queries = [
        'select ' ~ key ~ ' from ' ~ bronze ~ ' where ' ~ in_ingest_dates('_ingest_date')
        ~ ' and ' ~ key ~ ' is not null',
        'select ' ~ key ~ ' from ' ~ bronze ~ ' where _ingest_date is null and ' ~ inserted
        ~ ' and ' ~ key ~ ' is not null',
    ] -%}
    {#- Things with versions that left bronze since (a contract edit) are known to silver only. -#}
    {%- if this_exists() -%}
      {%- do queries.append('select ' ~ key ~ ' from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
    {%- endif -%}
    {%- set keys = touched_keys([key], queries) -%}
    {%- set dates = dates_of(
        'select distinct b.' ~ day ~ ' from ' ~ bronze ~ ' as b inner join (' ~ keys
        ~ ') as k on b.' ~ key ~ ' = k.' ~ key
    ) if day else none -%}
  {%- endif -%}

    select
        n.*,
        count(case when copy_number = 1 then 1 end) over (partition by {{ key }}) as version_count
    from (

    select
        v.*,
        row_number() over (
            partition by {{ key }}
            order by
                {%- for order in newest_first %}
                {{ order }},
                {%- endfor %}
                known_ingest_date desc,
                _partition desc nulls last,
                _offset desc nulls last,
                _topic_id desc nulls last
        ) as newness,
        {%- if same_version %}
        row_number() over (
            partition by {{ ([key] + same_version) | join(', ') }}
            order by
                known_ingest_date,
                _partition nulls first,
                _offset nulls first,
                _topic_id nulls first
        ) as copy_number,
        {%- else %}
        1 as copy_number,
        {%- endif %}
        min(known_ingest_date) over (partition by {{ key }}) as first_ingest_date,
        max(known_ingest_date) over (partition by {{ key }}) as last_ingest_date
    from (

        select
            b.*,
            coalesce(b._ingest_date, {{ 'b.' ~ day if day else in_no_ingest_date() }}) as known_ingest_date
        from {{ bronze }} as b
        {%- if ingest_dates %}
        inner join ({{ keys }}) as k on b.{{ key }} = k.{{ key }}
        {%- endif %}
        where
            b.{{ key }} is not null
            {%- if day %}
            and {{ is_day('b.' ~ day) }}
            {%- endif %}
            {%- if ingest_dates and day %}
            and {{ in_list('b.' ~ day, dates) }}
            {%- endif %}

    ) as v

    ) as n
{% endmacro %}


{#
  Whether something that knows its first and last ingest date may have had a part in the run's. What
  came in no ingest date (see versions_of) has a part in all.
#}
{% macro came_in_ingest_dates(prefix='') -%}
  {%- set bounds = ingest_date_bounds() -%}
  (
    ({{ prefix }}first_ingest_date < date '{{ bounds[1] }}' and {{ prefix }}last_ingest_date >= date '{{ bounds[0] }}')
    or {{ prefix }}first_ingest_date = {{ in_no_ingest_date() }}
  )
{%- endmacro %}


{# The ingest date of what came in none, older than all others. #}
{% macro in_no_ingest_date() -%}
  date '1970-01-01'
{%- endmacro %}


{# Whether a table is there: a stream that never had a record has none. #}
{% macro is_there(relation) %}
  {{ return(not execute or adapter.get_columns_in_relation(relation) | length > 0) }}
{% endmacro %}


{# A table, or no rows of the given columns (name: type) while it is not there. #}
{% macro if_there(relation, columns) -%}
  {%- if is_there(relation) -%}
    {{ relation }}
  {%- else -%}
    (select
      {%- for name, type in columns.items() %} cast(null as {{ type }}) as {{ name }}
      {{- ',' if not loop.last }}
      {%- endfor %} where 1 = 0)
  {%- endif -%}
{%- endmacro %}
