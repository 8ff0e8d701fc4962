{# The topics of the learning platform: their bronze tables and whether events name a course. #}
{% macro learning_topics() %}
  {{ return({
      'auth': ('learning_auth_events', false),
      'assessment': ('learning_assessment_events', true),
      'video': ('learning_video_events', true),
      'course': ('learning_course_events', true),
      'profile': ('learning_profile_events', false),
      'notification': ('learning_notification_events', true),
  }) }}
{% endmacro %}

{#
  Standing grades by day, course and type of assessment; all days, or those of a condition. Shares
  are summed as decimals: sums of doubles depend on the order of the rows.
#}
{% macro learning_scores(attempts, condition=none) -%}
  select
        graded_date,
        course_id,
        assessment_type,
        count(*) as graded_attempts,
        count(distinct user_id) as students,
        sum(score) as total_score,
        sum(max_score) as total_max_score,
        sum({{ safe_decimal('score_share', 18, 9) }}) as total_share,
        count({{ safe_decimal('score_share', 18, 9) }}) as attempts_with_share,
        min(score_share) as lowest_share,
        max(score_share) as highest_share
    from {{ attempts }}
    where
        graded_date is not null
        {%- if condition %}
        and {{ condition }}
        {%- endif %}
    group by graded_date, course_id, assessment_type
{%- endmacro %}

{# The columns of learning_scores. #}
{% macro learning_score_columns() %}
  {{ return([
      'graded_date', 'course_id', 'assessment_type', 'graded_attempts', 'students', 'total_score',
      'total_max_score', 'total_share', 'attempts_with_share', 'lowest_share', 'highest_share',
  ]) }}
{% endmacro %}
