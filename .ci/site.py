"""Build the guides and the reference as pages with a search; `index.html` is the start page.

    python .ci/site.py [DIRECTORY]

The directory is `site` if none is named.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc
import pdoc.render

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "nairi_async"


def public_modules() -> list[str]:
    """Return the names of the modules that list their exports."""
    paths = [path for path in PACKAGE.rglob("*.py") if "\n__all__ " in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


if __name__ == "__main__":
    pdoc.render.configure(docformat="google", show_source=False, template_directory=HERE / "pages")
    pdoc.pdoc(*public_modules(), output_directory=Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
