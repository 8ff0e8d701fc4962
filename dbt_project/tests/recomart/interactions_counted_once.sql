-- The matrix and the daily counts account for every interaction of silver.
with silver as (

    select count(*) as total
    from {{ ref('silver_recomart_transactions') }}

),

matrix as (

    select coalesce(cast(sum(views + add_to_carts + purchases) as bigint), 0) as total
    from {{ ref('gold_recomart_interactions') }}

),

daily as (

    select coalesce(cast(sum(views + add_to_carts + purchases) as bigint), 0) as total
    from {{ ref('gold_recomart_item_popularity_daily') }}

)

select silver.total, matrix.total as in_matrix, daily.total as in_days
from silver
cross join matrix
cross join daily
where silver.total <> matrix.total or silver.total <> daily.total
