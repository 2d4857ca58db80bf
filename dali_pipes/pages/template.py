"""Templates of pages: every value is escaped, and the stylesheet is in the page.

    template(Path("page.html.j2"), {"number": number}).render(title="…", headline="…")

A template extends base.html.j2 and fills its blocks.
"""

from __future__ import annotations

import base64
import hashlib
import re
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
    environment.globals["POLICY"] = Markup(_POLICY)
    environment.filters.update(filters)
    environment.template_class = _Page
    return environment.get_template(path.name)


_POLICY = "the policy is written here by _Page"


class _Page(jinja2.Template):
    """A template whose page may use only its own style sheets, scripts and pictures, whatever a name in it contains.

    Scripts are named by the hashes of those in the templates, style sheets by the hashes of those in the page, where
    figures have some, too (Content Security Policy Level 3). A script must therefore be the same in every page.
    """

    def render(self, *args: Any, **kwargs: Any) -> str:
        """The page, with its policy in place."""
        page, loader = super().render(*args, **kwargs), self.environment.loader
        assert loader is not None
        sources = [loader.get_source(self.environment, name)[0] for name in self.environment.list_templates(["j2"])]
        policy = (
            f"default-src 'none'; img-src data:; script-src {_hashes('script', *sources)}; style-src 'unsafe-inline';"
            f" style-src-elem {_hashes('style', page)}; style-src-attr 'unsafe-inline'; base-uri 'none'; form-action"
            " 'none'"
        )
        return page.replace(_POLICY, policy, 1)


def _hashes(tag: str, *pages: str) -> str:
    """The sources of a policy that permit the style or script elements of `pages`."""
    texts = [text for page in pages for text in re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.DOTALL)]
    return " ".join(dict.fromkeys(map(_hash, texts))) or "'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
