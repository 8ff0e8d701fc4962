{{ config(schema='silver', partition_by=['event_date'], sort_by=['tenant_id', 'entity_id']) }}

{#- All duplicates of an event share its event_date, so a date is recomputed without the others. -#}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set bronze = source('bronze', 'service_events_raw') -%}
  {#- Two selects, since an OR over two columns is pushed into the scan by neither engine. -#}
  {%- set queries = [
      'select event_date from ' ~ bronze ~ ' where ' ~ in_ingest_dates('_ingest_date'),
      'select event_date from ' ~ bronze ~ ' where _ingest_date is null and ' ~ in_ingest_dates('event_date'),
  ] -%}
  {#- Dates whose rows left bronze since (a contract edit) are known to silver only. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select event_date from ' ~ this ~ ' where ' ~ in_ingest_dates('_ingest_date')) -%}
  {%- endif -%}
  {%- set dates = touched_values('event_date', queries) -%}
{%- endif %}

with events as (

    select
        *,
        coalesce(_ingest_date, event_date) as known_ingest_date,
        -- Who did what when. What else is said of a step does not make it another one.
        {{ key_of([
            'event_date', timestamp_text('event_time'), 'tenant_id', 'entity_id',
            step_name('event_type'),
        ]) }} as event_key
    from {{ source('bronze', 'service_events_raw') }}
    where
        {{ is_day('event_date') }}
        and {{ is_time('event_time') }}
        and tenant_id is not null
        and entity_id is not null
        and event_type is not null
        {%- if ingest_dates %}
        and {{ in_list('event_date', dates) }}
        {%- endif %}

),

numbered as (

    select
        *,
        row_number() over (
            partition by event_key
            order by
                {{ copy_order([
                    'status', 'actor_type', 'actor_id', 'channel', 'ward_id', 'locality_id',
                    'attributes_json', 'raw_payload', 'service', 'entity_type', 'event_type',
                ]) }}
        ) as copy_number
    from events

),

stated as (

    select
        *,
        try_cast({{ json_text('attributes_json', 'sla_hours') }} as double) as stated_hours
    from numbered
    where copy_number = 1

)

select
    event_key,
    event_date,
    event_time,
    tenant_id,
    service,
    entity_type,
    entity_id,
    event_type,
    case {{ step_name('event_type') }}
        when 'casesubmitted' then 'submitted'
        when 'caseassigned' then 'assigned'
        when 'caseinprogress' then 'in_progress'
        when 'caseresolved' then 'resolved'
        when 'casereopened' then 'reopened'
        when 'caseclosed' then 'closed'
        when 'caserejected' then 'rejected'
        else 'other'
    end as stage,
    upper(trim(status)) as status,
    upper(trim(actor_type)) as actor_type,
    actor_id,
    upper(trim(channel)) as channel,
    ward_id,
    locality_id,
    {{ json_text('attributes_json', 'complaint_type') }} as complaint_type,
    upper({{ json_text('attributes_json', 'priority') }}) as priority,
    case when stated_hours > 0 then {{ within('stated_hours', 0, century_in_hours()) }} end
        as sla_hours,
    attributes_json,
    raw_payload,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from stated
