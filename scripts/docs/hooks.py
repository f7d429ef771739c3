"""Hooks for mkdocs: they write the reference pages from the code, and turn links to files into links of the site.

A page with `<!-- generated: NAME -->` gets the reference NAME in that place, so the reference cannot be out of date.
Without the site, such a page holds only its introduction. A notebook becomes a page with its stored outputs. In the
sources, links are relative to the file that holds them, so they also work in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import api
import commands
import configuration
import notebook_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"configuration": configuration.reference, "commands": commands.reference, "api": api.reference}
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "scripts/bench/README.md": "bench.md",
    "scripts/results/decoders.md": "decoders.md",
    "pipeline/shipped/model/README.md": "digits-model.md",
    "docs/tutorial.ipynb": "tutorial.md",
}
"""Pages of the site that have another place or another format in the repository."""
_IN_REPOSITORY = {page: path for path, page in OUTSIDE.items()}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_IMAGE = re.compile(r'<img [^>]*src="(?P<source>[^"]+)"[^>]*>')
_MARK = re.compile(r"<!-- generated: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no Markdown files in docs/."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Write the references, and let links lead into the site."""
    place = _IN_REPOSITORY.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if place.endswith(".ipynb"):
        markdown = notebook_page.page(markdown, posixpath.basename(place))
    markdown = _MARK.sub(lambda match: GENERATED[match[1]](), markdown)
    return _LINK.sub(lambda match: _linked(match, posixpath.dirname(place), page.file.src_uri, files), markdown)


def on_page_content(html: str, **_: object) -> str:
    """Let a click on a picture open it in its own size: pages are narrower than most pictures."""
    return _IMAGE.sub(r'<a href="\g<source>">\g<0></a>', html)


def _linked(match: re.Match[str], folder: str, page: str, files: Files) -> str:
    """A link as the site has it: to its own pages, outside as it stands, to other files of the repository as text."""
    target = match["target"]
    if ":" in target:
        return match[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    if not (ROOT / path).exists():
        return match[0]  # mkdocs, which is strict, says so
    uri = OUTSIDE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
    if files.get_file_from_path(uri) is None:
        return match["text"]
    relative = posixpath.relpath(uri, posixpath.dirname(page) or ".")
    return f"{match['image']}[{match['text']}]({relative}{match['anchor'] or ''})"
