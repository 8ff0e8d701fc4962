"""Optional Python modules of the domains, found by file name: `<domain>/<name>.py`.

`simulator` makes records of the domain's streams, `pages` adds documents to an export. They are
loaded when they are needed, so that a domain may lack them, and may lie outside of the package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ingestion_platform.streams import folders


def modules(name: str, domain: str = "*") -> Iterator[ModuleType]:
    """Yield the modules of that name, of all domains or of one.

    Raises:
        SettingError: PLATFORM_DOMAINS is no folder.
    """
    for root in folders():
        for file in sorted(root.glob(f"{domain}/{name}.py")):
            yield _load(file)


@cache
def _load(file: Path) -> ModuleType:
    """Import a file. Not by package name: folders of PLATFORM_DOMAINS belong to no package."""
    spec = spec_from_file_location(f"_domain_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
