{{ config(
    schema='gold', partition_by=['month(opened_date)'], sort_by=['tenant_id', 'entity_id']
) }}

{#- A case is recomputed from all of its events, whatever their ingest dates. -#}
{%- set silver = ref('silver_pgr_events') -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set queries = [
      'select tenant_id, entity_id from ' ~ silver ~ ' where ' ~ in_ingest_dates('_ingest_date'),
  ] -%}
  {%- if this_exists() -%}
    {#- Cases that had events in these ingest dates, and may have them no more. -#}
    {%- do queries.append(
        'select tenant_id, entity_id from ' ~ this ~ " where first_ingest_date < date '" ~ ingest_dates[1]
        ~ "' and last_ingest_date >= date '" ~ ingest_dates[0] ~ "'"
    ) -%}
    {#- Open cases whose time ran out because the latest event is a later one now. -#}
    {%- do queries.append(
        'select tenant_id, entity_id from ' ~ this ~ ' where sla_due_at is not null'
        ~ ' and ended_at is null and sla_breached is distinct from (sla_due_at < ('
        ~ pgr_as_of(silver) ~ '))'
    ) -%}
    {#- Silver takes a day as a whole, also what later ingest dates have of it by now. -#}
    {%- do queries.append(
        'select coalesce(s.tenant_id, g.tenant_id) as tenant_id, '
        ~ 'coalesce(s.entity_id, g.entity_id) as entity_id '
        ~ 'from (select tenant_id, entity_id, count(*) as events from ' ~ silver
        ~ ' group by tenant_id, entity_id) as s full outer join ' ~ this ~ ' as g '
        ~ 'on s.tenant_id = g.tenant_id and s.entity_id = g.entity_id '
        ~ 'where coalesce(s.events, 0) <> coalesce(g.event_count, 0)'
    ) -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- do queries.append('select tenant_id, entity_id from ' ~ silver) -%}
  {%- endif -%}
  {%- set keys = touched_keys(['tenant_id', 'entity_id'], queries) -%}
  {%- set dates = dates_of(
      'select distinct s.event_date from ' ~ silver ~ ' as s inner join (' ~ keys
      ~ ') as k on s.tenant_id = k.tenant_id and s.entity_id = k.entity_id'
  ) -%}
{%- endif %}

with
{%- if ingest_dates %} touched as (

    {{ keys }}

),
{% endif %}
clock as (

    {{ pgr_as_of(silver) }}

),

events as (

    select
        s.*,
        row_number() over (
            partition by s.tenant_id, s.entity_id
            order by
                s.event_time,
                s._ingest_date,
                s._partition nulls first,
                s._offset nulls first,
                s.event_key
        ) as step
    from {{ silver }} as s
    {%- if ingest_dates %}
    inner join touched as t on s.tenant_id = t.tenant_id and s.entity_id = t.entity_id
    where {{ in_list('s.event_date', dates) }}
    {%- endif %}

),

cases as (

    select
        tenant_id,
        entity_id,
        max_by(ward_id, step) filter (where ward_id is not null) as ward_id,
        max_by(locality_id, step) filter (where locality_id is not null) as locality_id,
        min_by(channel, step) filter (where channel is not null) as channel,
        max_by(complaint_type, step) filter (where complaint_type is not null) as complaint_type,
        max_by(priority, step) filter (where priority is not null) as priority,
        max_by(sla_hours, step) filter (where sla_hours is not null) as sla_hours,
        max_by(status, step) filter (where status is not null) as current_status,
        max_by(stage, step) as current_stage,
        min(event_time) filter (where stage = 'submitted') as submitted_at,
        min(event_time) filter (where stage = 'assigned') as assigned_at,
        min(event_time) filter (where stage = 'in_progress') as in_progress_at,
        min(event_time) filter (where stage = 'resolved') as first_resolved_at,
        max(event_time) filter (where stage = 'resolved') as last_resolved_at,
        max(event_time) filter (where stage = 'closed') as last_closed_at,
        max(event_time) filter (where stage = 'rejected') as last_rejected_at,
        max(event_time) filter (where stage = 'reopened') as reopened_at,
        max(step) filter (where stage = 'resolved') as resolved_step,
        max(step) filter (where stage = 'closed') as closed_step,
        max(step) filter (where stage = 'rejected') as rejected_step,
        coalesce(max(step) filter (where stage = 'reopened'), 0) as reopened_step,
        count(*) filter (where stage = 'reopened') as reopen_count,
        count(*) as event_count,
        min(event_time) as first_event_at,
        max(event_time) as last_event_at,
        min(_ingest_date) as first_ingest_date,
        max(_ingest_date) as last_ingest_date
    from events
    group by tenant_id, entity_id

),

-- What happened before the last reopening does not stand.
standing as (

    select
        *,
        case when resolved_step > reopened_step then last_resolved_at end as resolved_at,
        case when closed_step > reopened_step then last_closed_at end as closed_at,
        case when rejected_step > reopened_step then last_rejected_at end as rejected_at,
        {{ plus_hours('submitted_at', 'sla_hours') }} as sla_due_at
    from cases

),

ended as (

    select
        *,
        coalesce(resolved_at, rejected_at, closed_at) as ended_at
    from standing

)

select
    c.tenant_id,
    c.entity_id,
    c.ward_id,
    c.locality_id,
    c.channel,
    c.complaint_type,
    c.priority,
    cast(coalesce(c.submitted_at, c.first_event_at) as date) as opened_date,
    c.submitted_at,
    c.assigned_at,
    c.in_progress_at,
    c.first_resolved_at,
    c.resolved_at,
    c.closed_at,
    c.rejected_at,
    c.reopened_at,
    c.ended_at,
    c.reopen_count,
    c.current_status,
    c.current_stage,
    {{ seconds_between('c.submitted_at', 'c.resolved_at') }} / 3600e0 as hours_to_resolve,
    c.sla_hours,
    c.sla_due_at,
    c.sla_due_at < coalesce(c.ended_at, k.as_of) as sla_breached,
    c.event_count,
    c.first_event_at,
    c.last_event_at,
    c.first_ingest_date,
    c.last_ingest_date
from ended as c
cross join clock as k
