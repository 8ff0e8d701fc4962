-- The catalogue is what the latest versions give.
with expected as (

    {{ tmdb_catalogue(ref('silver_tmdb_movie'), ref('silver_tmdb_tv_series')) }}

),

found as (

    select *
    from {{ ref('gold_tmdb_catalogue') }}

)

select * from (select * from expected except select * from found) as missing
union all
select * from (select * from found except select * from expected) as unexpected
