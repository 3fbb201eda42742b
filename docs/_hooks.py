"""What mkdocs is helped with: pages and notebooks outside of `docs/`, links to files that are no pages, and formulas as MathML, which needs no script."""

import base64
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
PICTURES = ("research/results", "benchmarks/results")
RENDERED = ROOT / "notebooks" / "rendered"
"""Where `make notebooks` leaves the notebooks with what they print and draw."""
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")
_MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, the notebooks, and their pictures."""
    for notebook in sorted((ROOT / "notebooks").glob("*.py")):
        parts, pictures = _parts_of(notebook)
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content="\n\n".join(parts)))
    for place, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text()))
    for picture in (picture for folder in PICTURES for picture in sorted((ROOT / folder).glob("*.png"))):
        files.append(File.generated(config, f"pictures/{picture.name}", content=picture.read_bytes()))
    return files


def _parts_of(notebook: Path) -> tuple[list[str], dict[str, bytes]]:
    """A percent script as parts of a page and the pictures in it: text, code, what a quick run printed and drew if there was one, the figure of a full run."""
    rendered = RENDERED / f"{notebook.stem}.ipynb"
    is_rendered = rendered.exists() and _sources(rendered) == _sources(notebook)
    parts, pictures = [], {}
    for cell in jupytext.read(rendered if is_rendered else notebook).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fenced(cell.source, "python"))
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                name = f"{notebook.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode(output.data["image/png"])
                parts.append(f"![What this cell draws]({name})")
            elif output.output_type == "stream" and output.name == "stdout":
                parts.append(_fenced(output.text.rstrip("\n"), 'text title="prints"'))
    parts.insert(1, f"*This page is the script `notebooks/{notebook.name}`{', run in its quick mode' if is_rendered else ''}.*")
    if (picture := notebook.with_suffix(".png")).exists():
        pictures[picture.name] = picture.read_bytes()
        parts += ["## The figure of a full run", f"![The figure of a full run]({picture.name})"]
    return parts, pictures


def _sources(notebook: Path) -> list[str]:
    """Of the cells, which tell whether a notebook was rendered from a script as it is now."""
    return [cell.source for cell in jupytext.read(notebook).cells]


def _fenced(text: str, language: str) -> str:
    """A block of code or output, also where it holds a fence."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


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
        if path.suffix == ".py" and path.parent == ROOT / "notebooks":
            return f"]({_up(name)}notebooks/{path.stem}.md)"
        if path.suffix == ".png" and path.parent == ROOT / "notebooks":
            return f"]({_up(name)}{inside})"
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
