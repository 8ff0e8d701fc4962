-- Rows that silver leaves out because they say of no case what happened when.
{{ config(severity='warn') }}

select event_date, event_time, tenant_id, entity_id, event_type
from {{ source('bronze', 'service_events_raw') }}
where
    event_date is null
    or event_time is null
    or not ({{ is_day('event_date') }} and {{ is_time('event_time') }})
    or tenant_id is null
    or entity_id is null
    or event_type is null
