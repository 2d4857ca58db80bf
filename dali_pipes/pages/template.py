"""Templates of pages: every value is escaped, and the stylesheet is in the page.

    template(Path("page.html.j2"), {"number": number}).render(title="…", headline="…")

A template extends base.html.j2 and fills its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent
STYLE = HERE / "style.css"


def template(path: Path, filters: Mapping[str, Any], show: Callable[[Any], Any] | None = None) -> jinja2.Template:
    """The jinja2 template in the file `path`, with `filters`; an unknown name in it is an error.

    `show`: applied to every value before it is printed and escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup(STYLE.read_text("utf-8"))
    environment.filters.update(filters)
    return environment.get_template(path.name)
