-- The lifecycle accounts for every event of silver.
with events as (

    select count(*) as total
    from {{ ref('silver_pgr_events') }}

),

counted as (

    select coalesce(cast(sum(event_count) as bigint), 0) as total
    from {{ ref('gold_pgr_case_lifecycle') }}

)

select events.total, counted.total as counted
from events
cross join counted
where events.total <> counted.total
