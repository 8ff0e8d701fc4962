{#
  Things of which the latest version counts: what their silver models share.

  A version is a row of bronze; a thing's row in silver knows the windows that its versions came
  in (first_window, last_window), so that a run finds the things whose versions came or went.
#}

{#
  The query of all versions of the things that the run's windows touched, or of all things: the
  columns of bronze and

    known_window    window of the version
    newness         1 for the latest, by the given order, then by arrival
    copy_number     above 1 for a copy: a version that agrees with another one in `same_version`
    version_count, first_window, last_window    of the thing; copies do not count

  It declares what the run replaces (see touched_keys). `day` names the date column that bronze is
  partitioned by; it stands in for the window of rows that were inserted by SQL. Where bronze has
  none, such rows are looked at in every run, and count as older than all others.
#}
{% macro versions_of(bronze, key, newest_first=[], day=none, same_version=[]) %}
  {%- set windows = window_bounds() -%}
  {%- if windows -%}
    {%- set inserted = in_windows(day) if day else '1 = 1' -%}
    {#- Two selects, since an OR over two columns is pushed into the scan by neither engine. -#}
    {%- set queries = [
        'select ' ~ key ~ ' from ' ~ bronze ~ ' where ' ~ in_windows('_window')
        ~ ' and ' ~ key ~ ' is not null',
        'select ' ~ key ~ ' from ' ~ bronze ~ ' where _window is null and ' ~ inserted
        ~ ' and ' ~ key ~ ' is not null',
    ] -%}
    {#- Things with versions that left bronze since (a contract edit) are known to silver only. -#}
    {%- if this_exists() -%}
      {%- do queries.append('select ' ~ key ~ ' from ' ~ this ~ ' where ' ~ came_in_windows()) -%}
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
                known_window desc,
                _partition desc nulls last,
                _offset desc nulls last,
                _generation desc nulls last
        ) as newness,
        {%- if same_version %}
        row_number() over (
            partition by {{ ([key] + same_version) | join(', ') }}
            order by
                known_window,
                _partition nulls first,
                _offset nulls first,
                _generation nulls first
        ) as copy_number,
        {%- else %}
        1 as copy_number,
        {%- endif %}
        min(known_window) over (partition by {{ key }}) as first_window,
        max(known_window) over (partition by {{ key }}) as last_window
    from (

        select
            b.*,
            coalesce(b._window, {{ 'b.' ~ day if day else in_no_window() }}) as known_window
        from {{ bronze }} as b
        {%- if windows %}
        inner join ({{ keys }}) as k on b.{{ key }} = k.{{ key }}
        {%- endif %}
        where
            b.{{ key }} is not null
            {%- if day %}
            and {{ is_day('b.' ~ day) }}
            {%- endif %}
            {%- if windows and day %}
            and {{ in_list('b.' ~ day, dates) }}
            {%- endif %}

    ) as v

    ) as n
{% endmacro %}


{#
  Whether something that knows its first and last window may have had a part in the run's. What
  came in no window (see versions_of) has a part in all.
#}
{% macro came_in_windows(prefix='') -%}
  {%- set bounds = window_bounds() -%}
  (
    ({{ prefix }}first_window < date '{{ bounds[1] }}' and {{ prefix }}last_window >= date '{{ bounds[0] }}')
    or {{ prefix }}first_window = {{ in_no_window() }}
  )
{%- endmacro %}


{# The window of what came in none, older than all others. #}
{% macro in_no_window() -%}
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
