"""Imports go down: no circles, floors as docs/architecture.md draws them, and a light create_model."""

import ast
import re

import pytest
from conftest import ROOT

import openseg

LIBRARY = ROOT / "lib/openseg"
PAGE = (ROOT / "docs/architecture.md").read_text()


def module_name(path):
    parts = ("openseg", *path.relative_to(LIBRARY).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in LIBRARY.rglob("*.py")}


def imported(path):
    """Modules of the library that a file imports anywhere, except for type checkers only."""
    pending = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else node.module
        pending += ast.iter_child_nodes(node)


GRAPH = {name: {*imported(path)} - {name, "openseg"} for name, path in MODULES.items()}


def circle(graph):
    """Names on a circle, or nothing: take away what imports nothing that is left."""
    graph = dict(graph)
    while free := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in free:
            del graph[name]
    return sorted(graph)


def test_the_search_finds_circles():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert GRAPH["openseg.cli.main"] >= {"openseg.cli.segfix", "openseg.config", "openseg.tools.report.tables"}


def test_no_import_circle():
    assert circle(GRAPH) == []


def floor_of(name, floors):
    matches = [each for each in floors if f"{name}.".startswith(f"openseg.{each}.")]
    return floors[max(matches, key=len)]


def test_imports_go_down_the_floors():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE, re.MULTILINE)
    floors = {name: int(number) for number, names in rows for name in re.findall(r"`([\w.]+)`", names)}
    assert len(floors) > 12
    names = [name for name in MODULES if name != "openseg"]
    up = [
        f"{name} -> {target}"
        for name in names
        for target in GRAPH[name]
        if floor_of(target, floors) > floor_of(name, floors)
    ]
    assert up == []


def test_create_model_imports_what_it_needs(run):
    code = "import openseg, sys; openseg.create_model('hrnet18', 'ocr', num_classes=7); print(*sys.modules)"
    result = run("-c", code, env={"PYTHONPATH": str(ROOT / "lib")})
    loaded = set(result.stdout.split())
    assert "openseg.models.heads.ocr" in loaded
    assert not {name for name in loaded if name in ("cv2", "pydantic", "PIL") or re.match(r"openseg.*segfix", name)}


@pytest.mark.parametrize("thing", ["backbone", "head", "loss", "metric", "transform"])
def test_the_table_of_what_to_touch(thing):
    """Each row's function, built-in file and key are real; tests/test_extending.py goes the way of the row."""
    (row,) = re.findall(rf"^\| an? {thing} \|(.*)\|$", PAGE, re.MULTILINE)
    function, contract, built_in, key = (re.findall(r"`([^`]+)`", cell)[0] for cell in row.split("|"))
    assert callable(getattr(openseg, function.removeprefix("openseg.")))
    path, _, name = contract.partition(":")
    assert re.search(rf"^(class|def) {name}\b", (LIBRARY / path).read_text(), re.MULTILINE), contract
    assert re.search(
        r"^(    )?(BACKBONES|HEADS|LOSSES|METRICS|TRANSFORMS)\b", (LIBRARY / built_in).read_text(), re.MULTILINE
    )
    extending = (ROOT / "docs/extending.md").read_text()
    assert f"@{function}(" in extending or f"\n{function}(" in extending
    config = re.search(r"# mine.yaml\n(.*?)```", extending, re.DOTALL)[1]
    assert all(f"{part}:" in config for part in key.split("."))


def test_sizes():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in LIBRARY.rglob("*.py")}
    assert {name: count for name, count in long.items() if count > 400} == {}
    assert sum(count for name, count in long.items() if "/cli/" in name) <= 870
