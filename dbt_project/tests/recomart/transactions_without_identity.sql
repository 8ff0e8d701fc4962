-- Rows that silver leaves out because they say of no day who did what.
{{ config(severity='warn') }}

select user_id, item_id, view_mode, event_date, _ingest_date
from {{ source('bronze', 'recomart_transactions') }}
where
    user_id is null
    or item_id is null
    or view_mode is null
    or view_mode not in ({{ recomart_mode_names() }})
    or not ("timestamp" is null or {{ is_time('"timestamp"') }})
    or not (event_date is null or {{ is_day('event_date') }})
    or (event_date is null and _ingest_date is null)
