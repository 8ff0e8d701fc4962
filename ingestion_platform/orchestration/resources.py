"""Resources: the platform, opened from the settings of the process; dbt lives beside its assets."""

import dagster as dg

from ingestion_platform.platform import Platform
from ingestion_platform.settings import Settings


class PlatformResource(dg.ConfigurableResource[Platform]):
    """Gives assets, checks and sensors a `platform.Platform`; it has no settings of its own."""

    def create_resource(self, context: dg.InitResourceContext) -> Platform:
        """A platform of the present settings; its stores open when first used."""
        return Platform(Settings.load())
