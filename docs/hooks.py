"""For MkDocs (mkdocs.yml): pages that stand outside docs/, and links that work on GitHub and on the site alike.

README.md is the first page; CONTRIBUTING.md, CHANGELOG.md, and whatever a page links to in the repository (tables,
pictures, notebooks, a file of code) become part of the site under their own paths. Links are written as GitHub wants
them, relative to the file that holds them, and are turned here into the site's. A link to a folder without a README.md
is plain text on the site. A link to nothing is a warning, which `mkdocs build --strict` makes an error.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

_CODE = r"```.*?```|``[^\n]*?``|`[^`\n]*`"
_LINK = re.compile(rf"(?P<code>{_CODE})|(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)", re.DOTALL)
_log = logging.getLogger("mkdocs.hooks")


def on_files(files, config):
    """Add the pages and files outside docs/ that pages link to, in turn with what those link to."""
    from mkdocs.structure.files import File

    inside = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in reached([*NAMES, *inside]):
        if not path.startswith("docs/"):
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn the links of a page."""
    path = repository_path(page.file.src_uri)

    def turned(match: re.Match) -> str:
        target = match["target"] and resolved(path, match["target"])
        if target is None:
            return match[0]
        place = _page_of(target)
        if place is None:
            if not (ROOT / target).exists():
                _log.warning("%s: the link to %s leads nowhere", path, match["target"])
            return match["text"]
        relative = os.path.relpath(site_path(place), PurePosixPath(page.file.src_uri).parent)
        anchor = match["target"].partition("#")[2]
        return f"{match['image']}[{match['text']}]({relative}{anchor and '#' + anchor})"

    return _LINK.sub(turned, markdown)


def reached(paths: list[str]) -> list[str]:
    """These files of the repository and all that they link to, in turn, each once."""
    found = dict.fromkeys(path for path in paths if (ROOT / path).is_file())
    waiting = list(found)
    while waiting:
        path = waiting.pop()
        for target in links(path) if path.endswith(".md") else ():
            place = _page_of(target)
            if place is not None and place not in found:
                found[place] = None
                waiting.append(place)
    return list(found)


def links(path: str) -> Iterator[str]:
    """What a Markdown file links to within the repository, as paths from its root, whether it exists or not."""
    for match in _LINK.finditer((ROOT / path).read_text()):
        target = match["target"] and resolved(path, match["target"])
        if target is not None:
            yield target


def resolved(path: str, target: str) -> str | None:
    """A link's target as a path from the repository's root; None: it leads out of the repository, or is an anchor."""
    plain = unquote(target.partition("#")[0])
    if not plain or re.match(r"[a-z]+:", plain):
        return None
    return os.path.normpath(PurePosixPath(path).parent / plain)


def site_path(path: str) -> str:
    """Where a file of the repository stands on the site."""
    return NAMES.get(path, path.removeprefix("docs/"))


def repository_path(src_uri: str) -> str:
    """The inverse of `site_path`."""
    outside = {site: path for path, site in NAMES.items()}
    if src_uri in outside:
        return outside[src_uri]
    return f"docs/{src_uri}" if (ROOT / "docs" / src_uri).exists() else src_uri


def _page_of(target: str) -> str | None:
    """The file that a link to this file or folder shows; None: there is none."""
    return next((p for p in (target, f"{target}/README.md") if (ROOT / p).is_file()), None)
