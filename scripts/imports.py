#!/usr/bin/env python
"""Draw which package imports which, from the imports in the code (those inside functions too).

    scripts/imports.py              # a line for each package
    scripts/imports.py --mermaid    # a graph that GitHub and the documentation draw

Exit code 1 if a package imports one that stands above it in LAYERS (tests/test_imports.py holds that as well).
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.command_line import Parser  # noqa: E402

LAYERS: tuple[tuple[str, ...], ...] = (
    ("sasg", "errors", "origins", "environment", "builtin", "randomness"),
    ("command_line", "parts", "lifetime", "places"),
    ("config",),
    ("kernels",),
    ("cluster",),
    ("gradients",),
    ("algorithms",),
    ("problem",),
    ("training",),
    ("report", "checks"),
    ("__main__",),
    ("experiments",),
    ("scripts", "benchmarks"),
)
"""From the bottom up: a package imports from its own layer and from those before it. `sasg` is its __init__ alone."""


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--mermaid", action="store_true", help="write a Mermaid graph")
    options = parser.parse_args()
    imports = imports_by_module(ROOT)
    graph = by_package(imports)
    print("\n".join(as_mermaid(graph) if options.mermaid else as_text(graph)))
    wrong = complaints(imports)
    print("".join(f"error: {line}\n" for line in wrong), end="", file=sys.stderr)
    return 1 if wrong else 0


def imports_by_module(root: Path) -> dict[str, set[str]]:
    """module -> packages of the suite that it imports, for all modules of sasg, experiments, scripts and benchmarks."""
    folders = ("sasg", "experiments", "scripts", "benchmarks")
    files = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    placed = {package for layer in LAYERS for package in layer}
    found = {}
    for path in files:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[module] = {package_of(name) for name in _imported(path)} & placed - {package_of(module)}
    return found


def package_of(module: str) -> str:
    """`training` for sasg.training.run, `errors` for sasg.errors, `scripts` for scripts.table."""
    first, *rest = module.split(".")
    return rest[0] if first == "sasg" and rest else first


def by_package(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """package -> packages that it imports, in the order of LAYERS."""
    present = {package_of(module) for module in imports}
    graph = {package: set() for layer in LAYERS for package in layer if package in present}
    for module, names in imports.items():
        graph.setdefault(package_of(module), set()).update(names)
    return graph


def complaints(imports: dict[str, set[str]]) -> list[str]:
    """A line for each import of a package above, and for each package without a place in LAYERS."""
    height = {package: i for i, layer in enumerate(LAYERS) for package in layer}
    homeless = sorted({package_of(module) for module in imports} - height.keys())
    lines = [f"{package} has no place in LAYERS of scripts/imports.py" for package in homeless]
    for module, names in imports.items():
        own = height.get(package_of(module), len(LAYERS))
        lines += [f"{module} imports {name}, which stands above it" for name in sorted(names) if height[name] > own]
    return lines


def as_text(graph: dict[str, set[str]]) -> Iterator[str]:
    """A line for each package, the lowest first."""
    width = max(map(len, graph))
    for package, names in graph.items():
        yield f"{package:{width}} <- {', '.join(name for name in graph if name in names) or 'nothing'}"


def as_mermaid(graph: dict[str, set[str]]) -> Iterator[str]:
    """Arrows point to what is imported. Those that follow from others are left out."""
    yield "graph TD"
    for package in reversed(graph):
        for name in sorted(graph[package]):
            if not any(name in _reached(graph, other, {package}) for other in graph[package] - {name}):
                yield f"    {package} --> {name}"


def _reached(graph: dict[str, set[str]], package: str, seen: set[str]) -> set[str]:
    """What a package imports, through others too; what is `seen` is not entered again."""
    reached = set(graph.get(package, ())) - seen
    for name in sorted(reached):
        reached |= _reached(graph, name, seen | {package})
    return reached


def _imported(path: Path) -> Iterator[str]:
    """Dotted names of modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "sasg" else [node.module]
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
