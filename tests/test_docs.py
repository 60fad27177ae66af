"""The documentation: every link within the repository leads somewhere, and every page stands in the site's menu."""

import re
import subprocess
from pathlib import Path

import pytest

from docs.hooks import links, reached, repository_path, site_path

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"]
PAGES = OUTSIDE + sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    assert [target for target in links(page) if not (ROOT / target).exists()] == []


def test_all_pages_are_in_the_menu():
    menu = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    assert menu >= {site_path(page) for page in PAGES}


def test_where_pages_stand():
    for page in PAGES:
        assert repository_path(site_path(page)) == page


def test_what_pages_link_to_is_published_with_them():
    """Tables in turn with their pictures; nothing that is not in the repository."""
    found = reached(PAGES)
    assert {"results/table2/table2.md", "results/gdsec/gdsec.png", "docs/images/demo.png"} <= set(found)
    assert not any((ROOT / path).is_dir() for path in found)
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files", *found], cwd=ROOT, capture_output=True, text=True, check=True)
        assert sorted(tracked.stdout.split()) == sorted(found)
