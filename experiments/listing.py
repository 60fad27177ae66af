"""What there is to choose from, the suite's and yours, each with the first line of its description.

    sasg list              # everything
    sasg list methods      # or tasks, models, datasets, studies, links, ...
    sasg list sasg         # whatever has this in its name

Yours are YAML files in conf/ beside the call, or in the folder that SASG_CONF names; they are told with their path.
"""

from difflib import get_close_matches

from sasg.command_line import Parser
from sasg.errors import UserError
from sasg.places import CONF, description, files

_TITLES = {
    "methods": "algorithm",
    "tasks": "task",
    "datasets": "dataset",
    "models": "model",
    "studies": "study",
    "objectives": "objective",
    "shards": "shards",
    "presets": "preset",
    "links": "link",
    "clusters": "cluster",
    "trackers": "tracker",
}
"""Titles, and the groups (folders of conf/) that they stand for."""


def main() -> int:
    """Print what the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(_TITLES)}, or a part of a name")
    options = parser.parse_args()
    print("\n\n".join(_section(*found) for found in _chosen(options.what)))
    return 0


def names_by_group() -> str:
    """A line per group: its name, and those of its files."""
    return "\n".join(f"{group}: {', '.join(sorted(files(group)))}" for group in sorted(_TITLES.values()))


def _chosen(words: list[str]) -> list[tuple[str, list[str]]]:
    """(title, names) of what the words ask for; UserError: a word is neither a title, a group, nor in any name."""
    if not words:
        return [(title, sorted(files(group))) for title, group in _TITLES.items()]
    chosen: dict[str, list[str]] = {}
    for word in words:
        start = word.lower()
        found = {
            title: names
            for title, group in _TITLES.items()
            if (names := [n for n in sorted(files(group)) if _begin_with(start, title, group) or start in n])
        }
        whole = {title: names for title, names in found.items() if start in (title, _TITLES[title])}
        if not found:
            similar = get_close_matches(start, _everything(), 1)
            hint = f"did you mean {similar[0]}?" if similar else "sasg list tells all that there is"
            raise UserError(f"{word}: nothing is called so; {hint}")
        for title, names in (whole or found).items():
            chosen[title] = sorted({*chosen.get(title, []), *names})
    return list(chosen.items())


def _begin_with(start: str, *names: str) -> bool:
    return any(name.startswith(start) for name in names)


def _everything() -> list[str]:
    return [*_TITLES, *sorted({name for group in _TITLES.values() for name in files(group)})]


def _section(title: str, names: list[str]) -> str:
    group = _TITLES[title]
    found = files(group)
    width = max(map(len, names), default=0)
    lines = [f"{title} ({group}=NAME)"]
    for name in names:
        path = found[name]
        own = "" if path.is_relative_to(CONF) else f"[{path}]"
        lines.append(f"  {name:<{width}}  {' '.join(filter(None, (description(path), own)))}".rstrip())
    return "\n".join(lines)
