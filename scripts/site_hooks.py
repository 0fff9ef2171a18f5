"""MkDocs hooks: pages of the site that are written elsewhere, and links between them.

README.md, MODEL_ZOO.md, CHANGELOG.md and CONTRIBUTING.md become pages; the API reference lists what ``openseg``
exports; the command reference is the help of the parsers themselves. Links to other files of the repository become
plain text, since the site is without them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import openseg
from openseg import _MODULES
from openseg.cli.main import make_parser as main_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "MODEL_ZOO.md": "model-zoo.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
MODULES = {
    "models": ("Networks", ["models.base", "models.factory", "models.segmentor", "models.segfix"]),
    "segfix": ("SegFix on arrays", ["segfix"]),
    "metrics": ("Metrics", ["metrics.base", "metrics.confusion", "metrics.boundary", "metrics.scores"]),
    "scale": ("Large sources", ["scale.api", "scale.settings"]),
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = relink((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, page, content=text))
    for page, text in reference_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links of the pages of docs/ lead to pages of the site."""
    source = page.file.src_uri
    return markdown if page.file.generated_by else relink(markdown, f"docs/{source}")


def on_post_page(output: str, **_: Any) -> str:
    """Replace the script of the theme that is loaded from the network, so that the search works without one."""
    shim = (ROOT / "scripts/site_worker.js").read_text(encoding="utf-8")
    return re.sub(r'<script src="https://unpkg.com/iframe-worker/shim"></script>', f"<script>{shim}</script>", output)


def relink(text: str, source: str) -> str:
    """``text`` of the repository's file ``source``, its links relative to the page that it becomes."""
    here = posixpath.dirname(PAGES.get(source, posixpath.relpath(source, "docs")))

    def replace(match: re.Match[str]) -> str:
        image, label, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in PAGES:
            page = PAGES[path]
        elif path.startswith("docs/") and (ROOT / path).is_file():
            page = posixpath.relpath(path, "docs")
        else:
            return label
        return f"{image}[{label}]({posixpath.relpath(page, here or '.')}{anchor or ''})"

    return LINK.sub(replace, text)


def reference_pages() -> dict[str, str]:
    """The pages of the reference by name: Markdown that mkdocstrings fills in."""
    pages = {"api/openseg.md": "# Python API\n\nEverything below is imported from `openseg`.\n"}
    for name in openseg.__all__:
        module = _MODULES.get(name, "errors")
        pages["api/openseg.md"] += f"\n::: openseg.{module}.{name}\n    options:\n      heading: {name}\n"
    for page, (title, modules) in MODULES.items():
        parts = [f"::: openseg.{module}\n    options:\n      members_order: source\n" for module in modules]
        pages[f"api/{page}.md"] = f"# {title}\n\n" + "\n".join(parts)
    pages["api/commands.md"] = commands_page()
    return pages


def commands_page() -> str:
    """The help of every command."""
    text = ["# Commands\n\n`openseg` and `python main.py` are the same program.\n"]
    parser = main_parser(None)
    text.append(f"```text\n{parser.format_help()}```\n")
    (commands,) = (
        action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)
    )
    for name, command in commands.choices.items():
        text.append(f"## {name}\n\n```text\n{command.format_help()}```\n")
    return "\n".join(text)
