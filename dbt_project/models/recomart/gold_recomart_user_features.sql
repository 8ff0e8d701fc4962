{{ config(schema='gold', sort_by=['user_id']) }}

{#- The three streams start when they like: what is not there yet counts as empty. -#}
{%- set users = if_there(ref('silver_recomart_users'), {
    'user_id': 'bigint', 'age': 'bigint', 'age_band': 'varchar', 'gender': 'varchar',
    'device': 'varchar', 'first_ingest_date': 'date', 'last_ingest_date': 'date',
}) -%}
{%- set products = if_there(ref('silver_recomart_products'), {
    'item_id': 'bigint', 'price': 'double', 'category': 'varchar', 'first_ingest_date': 'date',
    'last_ingest_date': 'date',
}) -%}
{%- set interactions = if_there(ref('gold_recomart_interactions'), {
    'user_id': 'bigint', 'item_id': 'bigint', 'views': 'bigint', 'add_to_carts': 'bigint',
    'purchases': 'bigint', 'implicit_score': 'bigint', 'rating': 'bigint',
    'first_interaction_at': 'timestamp', 'last_interaction_at': 'timestamp',
    'first_ingest_date': 'date', 'last_ingest_date': 'date',
}) -%}
{%- set ingest_dates = ingest_date_bounds() -%}
{%- if ingest_dates -%}
  {%- set queries = [
      'select user_id from ' ~ users ~ ' as u where ' ~ came_in_ingest_dates(),
      'select user_id from ' ~ interactions ~ ' as i where ' ~ came_in_ingest_dates(),
      'select i.user_id from ' ~ interactions ~ ' as i inner join ' ~ products
      ~ ' as p on i.item_id = p.item_id where ' ~ came_in_ingest_dates('p.'),
  ] -%}
  {#- Users that the ingest dates had a part in, and may have none any more. -#}
  {%- if this_exists() -%}
    {%- do queries.append('select user_id from ' ~ this ~ ' where ' ~ came_in_ingest_dates()) -%}
    {#- The matrix takes pairs as a whole, also what later ingest dates have of them by now. -#}
    {%- do queries.append(
        'select coalesce(i.user_id, g.user_id) as user_id '
        ~ 'from (select user_id, sum(interactions) as deeds from ' ~ interactions
        ~ ' as i group by user_id) as i full outer join ' ~ this
        ~ ' as g on i.user_id = g.user_id '
        ~ 'where coalesce(i.deeds, 0) <> coalesce(g.views + g.add_to_carts + g.purchases, 0)'
    ) -%}
  {%- else -%}
    {#- A table that is made now takes all that silver has, also of ingest dates before these. -#}
    {%- do queries.append('select user_id from ' ~ users ~ ' as u') -%}
    {%- do queries.append('select user_id from ' ~ interactions ~ ' as i') -%}
  {%- endif -%}
  {%- set keys = touched_keys(['user_id'], queries) -%}
{%- endif %}

with profiles as (

    select u.*
    from {{ users }} as u
    {%- if ingest_dates %}
    inner join ({{ keys }}) as k on u.user_id = k.user_id
    {%- endif %}

),

deeds as (

    select
        i.*,
        {{ safe_decimal('p.price', 18, 4) }} as price,
        p.category,
        p.first_ingest_date as product_first_ingest_date,
        p.last_ingest_date as product_last_ingest_date
    from {{ interactions }} as i
    {%- if ingest_dates %}
    inner join ({{ keys }}) as k on i.user_id = k.user_id
    {%- endif %}
    left join {{ products }} as p on i.item_id = p.item_id

),

-- Sums are of decimals: those of doubles depend on the order of the rows.
activity as (

    select
        user_id,
        count(*) as items,
        cast(sum(views) as bigint) as views,
        cast(sum(add_to_carts) as bigint) as add_to_carts,
        cast(sum(purchases) as bigint) as purchases,
        cast(sum(purchases * price) as double) as spent,
        cast(sum(case when price is null then purchases else 0 end) as bigint)
            as unpriced_purchases,
        count(rating) as rated_items,
        cast(sum(rating) as double) / nullif(count(rating), 0) as mean_rating,
        min(first_interaction_at) as first_interaction_at,
        max(last_interaction_at) as last_interaction_at,
        min(least(first_ingest_date, coalesce(product_first_ingest_date, first_ingest_date))) as first_ingest_date,
        max(greatest(last_ingest_date, coalesce(product_last_ingest_date, last_ingest_date))) as last_ingest_date
    from deeds
    group by user_id

),

tastes as (

    select
        user_id,
        category,
        row_number() over (
            partition by user_id
            order by sum(implicit_score) desc, category
        ) as place
    from deeds
    where category is not null
    group by user_id, category

)

select
    coalesce(u.user_id, a.user_id) as user_id,
    u.user_id is not null as has_profile,
    u.age,
    u.age_band,
    u.gender,
    u.device,
    coalesce(a.items, 0) as items,
    coalesce(a.views, 0) as views,
    coalesce(a.add_to_carts, 0) as add_to_carts,
    coalesce(a.purchases, 0) as purchases,
    cast(a.add_to_carts as double) / nullif(a.views, 0) as carts_per_view,
    cast(a.purchases as double) / nullif(a.add_to_carts, 0) as purchases_per_cart,
    coalesce(a.spent, 0e0) as spent,
    coalesce(a.unpriced_purchases, 0) as unpriced_purchases,
    t.category as favourite_category,
    coalesce(a.rated_items, 0) as rated_items,
    a.mean_rating,
    a.first_interaction_at,
    a.last_interaction_at,
    least(
        coalesce(u.first_ingest_date, a.first_ingest_date), coalesce(a.first_ingest_date, u.first_ingest_date)
    ) as first_ingest_date,
    greatest(
        coalesce(u.last_ingest_date, a.last_ingest_date), coalesce(a.last_ingest_date, u.last_ingest_date)
    ) as last_ingest_date
from profiles as u
full outer join activity as a on u.user_id = a.user_id
left join tastes as t on coalesce(u.user_id, a.user_id) = t.user_id and t.place = 1
