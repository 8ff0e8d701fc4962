-- Every case counts on exactly one day, at every stage that it reached.
with expected as (

    {{ pgr_funnel_counts(ref('gold_pgr_case_lifecycle')) }}

),

found as (

    select opened_date, tenant_id, ward_id, {{ pgr_funnel_stages().keys() | join(', ') }}
    from {{ ref('gold_pgr_funnel_daily') }}

)

select * from (select * from expected except select * from found) as missing
union all
select * from (select * from found except select * from expected) as unexpected
