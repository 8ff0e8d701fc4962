-- Whoever has a profile or did anything has features, with all deeds.
with met as (

    select user_id, cast(sum(interactions) as bigint) as interactions
    from {{ ref('gold_recomart_interactions') }}
    group by user_id

),

expected as (

    select coalesce(u.user_id, m.user_id) as user_id, coalesce(m.interactions, 0) as interactions
    from {{ ref('silver_recomart_users') }} as u
    full outer join met as m on u.user_id = m.user_id

),

found as (

    select user_id, views + add_to_carts + purchases as interactions
    from {{ ref('gold_recomart_user_features') }}

)

select * from (select * from expected except select * from found) as missing
union all
select * from (select * from found except select * from expected) as unexpected
