{{ config(schema='silver', partition_by=['event_date'], sort_by=['user_id', 'item_id']) }}

{#-
  All copies of an interaction share its day, so a day is recomputed without the others. An
  interaction without a time counts on the day of its ingest date; those are two selects, since an OR
  over two columns is pushed into the scan by neither engine.
-#}
{%- set bronze = source('bronze', 'recomart_transactions') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set queries = [
      'select coalesce(event_date, _ingest_date) from ' ~ bronze ~ ' where ' ~ in_ingest_dates('_ingest_date'),
      'select event_date from ' ~ bronze ~ ' where _ingest_date is null and ' ~ in_ingest_dates('event_date'),
  ] -%}
  {#- Days whose rows left bronze since (a contract edit) are known to silver only. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select event_date from ' ~ this ~ ' where ' ~ in_ingest_dates('_ingest_date')) -%}
  {%- endif -%}
  {%- set dates = touched_values('event_date', queries) -%}
{%- endif %}

with sent as (

    select
        *,
        event_date as day
    from {{ bronze }}
    where
        {{ is_day('event_date') }}
        {%- if ingest_dates %}
        and {{ in_list('event_date', dates) }}
        {%- endif %}
    union all
    select
        *,
        _ingest_date as day
    from {{ bronze }}
    where
        event_date is null
        and _ingest_date is not null
        {%- if ingest_dates %}
        and {{ in_list('_ingest_date', dates) }}
        {%- endif %}

),

interactions as (

    select
        *,
        coalesce(_ingest_date, day) as known_ingest_date,
        -- Who did what when. A rating does not make it another interaction.
        {{ key_of([
            'day', 'user_id', 'item_id', 'view_mode', timestamp_text('"timestamp"'),
            'case when "timestamp" is null then _topic_id end',
            'case when "timestamp" is null then _partition end',
            'case when "timestamp" is null then _offset end',
        ]) }} as interaction_key
    from sent
    where
        user_id is not null
        and item_id is not null
        and view_mode in ({{ recomart_mode_names() }})
        and ("timestamp" is null or {{ is_time('"timestamp"') }})

),

numbered as (

    select
        *,
        row_number() over (
            partition by interaction_key
            order by {{ copy_order(['rating']) }}
        ) as copy_number
    from interactions

)

select
    interaction_key,
    day as event_date,
    coalesce("timestamp", cast(day as timestamp)) as event_time,
    "timestamp" is not null as time_is_known,
    user_id,
    item_id,
    view_mode,
    rating,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from numbered
where copy_number = 1
