-- A resolution cannot precede the submission that it resolves, unless clocks differ.
{{ config(severity='warn') }}

select tenant_id, entity_id, submitted_at, first_resolved_at
from {{ ref('gold_pgr_case_lifecycle') }}
where first_resolved_at < submitted_at
