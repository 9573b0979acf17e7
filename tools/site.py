"""The site's own part of a build: a hook of MkDocs (`hooks` in mkdocs.yml).

Three things are made while the site is built, so that none can go stale: the reference (after its marks
`<!-- made: NAME -->`), pages for files that live outside docs/, and a page for each notebook.
"""

from __future__ import annotations

import logging
import posixpath
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.structure.files import File, Files

from tools.notebook_page import notebook_page
from tools.reference import MADE

log = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).resolve().parents[1]
MIRRORED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files beside docs/ -> their page on the site."""
_MARK = re.compile(r"^<!-- made: (\w+) -->$", re.M)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#|/)([^)#\s]*)(#[^)\s]*)?\)")
_LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href|srcset)=\"?(?:https?:)?//[^>]*>"
)
_PICTURE = re.compile(
    r'<picture>.*?srcset="(?:docs/)?(.*?)".*?alt="(.*?)" src="(?:docs/)?(.*?)".*?</picture>', re.S
)
_LINKED = re.compile(r'<(?:a|img|link|script|source)\b[^>]*?\b(?:href|src|srcset)="?([^"\s>]+)')
_FENCE = re.compile(r"^(```.*?^```|<!-- made: .*?)$", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that have no file in docs/."""
    for source, page in MIRRORED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        page = notebook_page(Path(str(file.abs_src_path)))
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=page))
    return files


def on_nav(nav: Any, config: Any, files: Files) -> None:
    """Warn of a page that stands in the navigation twice: its reader is led to one of both places."""
    places = Counter(page.file.src_uri for page in nav.pages)
    for page, count in places.items():
        if count > 1:
            log.warning("%s is in the nav of mkdocs.yml %d times", page, count)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is made, and point links to where the site has what they name."""
    uri = page.file.src_uri
    written = {page: source for source, page in MIRRORED.items()}
    here = posixpath.dirname(written.get(uri, f"docs/{uri}"))
    # GitHub chooses a picture by the reader's system; here it follows the page's own switch
    markdown = _PICTURE.sub(r"![\2](\3#only-light) ![\2](\1#only-dark)", markdown)
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _relinked(link, here, uri), part) for part in parts[::2]]
    return _MARK.sub(lambda mark: MADE[mark[1]](), "".join(parts))


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn of what a page would load from elsewhere: readers are nobody's business."""
    for loaded in _LOADED.findall(output):
        log.warning("%s loads something from elsewhere: %s", page.file.src_uri, loaded)
    return output


def on_post_build(config: Any) -> None:
    """Warn of files that a page names and the site lacks, in whatever HTML they stand."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        base = site if page.name == "404.html" else page.parent
        for link in set(_LINKED.findall(page.read_text(encoding="utf-8"))):
            path = unquote(link.partition("#")[0].partition("?")[0])
            if path and not re.match(r"\w+:|/", path) and not (base / path).exists():
                log.warning("%s: there is no %s", page.relative_to(site), path)


def _relinked(link: re.Match[str], here: str, page: str) -> str:
    """A link of a file in the repository's folder `here`, as the site's page needs it."""
    text, path, anchor = link[1], link[2], link[3] or ""
    target = posixpath.normpath(posixpath.join(here, path))
    if target.startswith("docs/"):
        on_site = target.removeprefix("docs/").replace(".ipynb", ".md")
    elif target in MIRRORED:
        on_site = MIRRORED[target]
    elif (ROOT / target).exists():  # a source file, a recipe: not on the site
        source = _source()
        return f"[{text}]({source}/blob/main/{target})" if source else text
    else:
        return link[0]  # MkDocs warns of it
    if (ROOT / target).is_dir():
        return link[0]
    return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(page) or '.')}{anchor})"


def _source() -> str | None:
    """The address of the repository, if pyproject.toml has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): address for name, address in project.get("urls", {}).items()}
    address = urls.get("source") or urls.get("repository")
    return address.rstrip("/") if address else None
