"""Self-contained HTML pages, from Jinja2 templates over one common base."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import InvalidInput
from ctclip_client.system.distributions import how_to_install_extra

if TYPE_CHECKING:
    from jinja2 import Environment


def render(package: str, template: str, **values: Any) -> str:
    """Return a page: `template` of the folder `templates` of `package`.

    It may extend `base.html`, which needs `random_weights`. Text is escaped; a value that the
    template needs and does not get is an error.

    Raises: InvalidInput where Jinja2 is not installed.
    """
    require_jinja2()
    return _pages(package).get_template(template).render(**values)


@cache  # it keeps its templates as compiled
def _pages(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("ctclip_client.report")])
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def require_jinja2() -> None:
    """Raises: InvalidInput where it is not installed; before thousands of scans are scored."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise InvalidInput("Pages need Jinja2.", how_to_install_extra("report")) from error
