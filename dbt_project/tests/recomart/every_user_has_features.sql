-- Whoever has a profile or did anything has features, with all deeds.
{%- set users = if_there(ref('silver_recomart_users'), {'user_id': 'bigint'}) -%}
{%- set pairs = if_there(
    ref('gold_recomart_interactions'), {'user_id': 'bigint', 'interactions': 'bigint'}
) %}

with met as (

    select user_id, cast(sum(interactions) as bigint) as interactions
    from {{ pairs }} as pairs
    group by user_id

),

expected as (

    select coalesce(u.user_id, m.user_id) as user_id, coalesce(m.interactions, 0) as interactions
    from {{ users }} as u
    full outer join met as m on u.user_id = m.user_id

),

found as (

    select user_id, views + add_to_carts + purchases as interactions
    from {{ ref('gold_recomart_user_features') }}

)

select * from (select * from expected except select * from found) as missing
union all
select * from (select * from found except select * from expected) as unexpected
