{{ config(schema='silver', sort_by=['tmdb_id']) }}

{{ tmdb_latest(source('bronze', 'tmdb_person'), [
    'name',
    'also_known_as',
    'known_for_department',
    'biography',
    "case gender when 1 then 'female' when 2 then 'male' when 3 then 'non-binary' end as gender",
    'birthday',
    'deathday',
    'place_of_birth',
    'popularity',
    'adult',
    'imdb_id',
    'homepage',
    'profile_path',
]) }}
