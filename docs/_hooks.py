"""What mkdocs is helped with: pages and notebooks outside of `docs/`, links to files that are no pages, and formulas as MathML, which needs no script."""

import html
import re
from pathlib import Path
from typing import Any

import jupytext
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "research/README.md": "research.md",
    "research/development.md": "development.md",
}
"""Pages by their place in the repository, and their names in the site."""
PICTURES = ("research/results", "notebooks", "benchmarks/results")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, the notebooks, and their pictures."""
    for notebook in sorted((ROOT / "notebooks").glob("*.py")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=_page_of(notebook)))
    for place, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text()))
    for picture in (picture for folder in PICTURES for picture in sorted((ROOT / folder).glob("*.png"))):
        files.append(File.generated(config, f"pictures/{picture.name}", content=picture.read_bytes()))
    return files


def _page_of(notebook: Path) -> str:
    """A percent script as a page: its text, its code, and the figure that it made."""
    cells = jupytext.read(notebook).cells
    parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    picture = notebook.with_suffix(".png")
    shown = [f"![The figure of this notebook](../pictures/{picture.name})"] if picture.exists() else []
    return "\n\n".join([*parts, *shown])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as they are in the repository, as links of the site; a file that is no page is named, not linked."""
    name = page.file.src_uri
    if name.startswith("notebooks/"):
        return markdown
    place = next((outside for outside, inside in OUTSIDE.items() if inside == name), f"docs/{name}")

    def linked(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = (ROOT / place).parent.joinpath(target).resolve()
        inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else target
        if inside in OUTSIDE:
            return f"]({_up(name)}{OUTSIDE[inside]}{anchor})"
        if path.suffix == ".png" and not inside.startswith("docs/"):
            return f"]({_up(name)}pictures/{path.name})"
        if inside.startswith("docs/") and path.suffix in (".md", ".png"):
            return f"]({_up(name)}{inside.removeprefix('docs/')}{anchor})"
        return f"]({_up(name)}index.md#files)"

    return _LINK.sub(linked, markdown)


def _up(name: str) -> str:
    return "../" * name.count("/")


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""

    def as_mathml(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]), display="inline" if match[2] == "(" else "block")

    return _MATH.sub(as_mathml, content)
