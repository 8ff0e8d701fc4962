{{ config(schema='silver', sort_by=['user_id']) }}

with versions as (
{{ versions_of(source('bronze', 'recomart_users'), 'user_id') }}
)

select
    user_id,
    age,
    case
        when age < 18 then 'under 18'
        when age < 25 then '18-24'
        when age < 35 then '25-34'
        when age < 50 then '35-49'
        when age < 65 then '50-64'
        when age >= 65 then '65 and over'
    end as age_band,
    gender,
    device,
    version_count,
    first_ingest_date,
    last_ingest_date,
    known_ingest_date as _ingest_date,
    _topic_id,
    _partition,
    _offset
from versions
where newness = 1
