"""The texts use the field's standard terms: no other word for the same thing, no long lines of prose."""

import ast
import io
import re
import tokenize

import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pretrained_model/README.md"])
SOURCES = sorted(
    path
    for folder in ("lib", "scripts", "benchmarks", ".")
    for path in (ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py"))
)
SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "configs").rglob("*.yaml")])
# What to say instead, by what not to say. Words of code (a method's name, a key) stand in quotes or with underscores.
INSTEAD = {
    r"sharpen\w*": "refine",
    r"outlines?": "boundary",
    r"mend(s|ed|ing)?": "fix, try or use",
    r"(the|this|an|each|every) experiments?": "config",
    r"data sets?": "dataset",
    r"pictures?": "figure, image or visualization",
    r"(is|are|was|were) there already": "already exists",
    r"what is there already": "existing results",
    r"goes on where it stopped": "resumes; existing results are skipped",
    r"meets by": "is matched by",
    r"link to nothing": "broken symlink",
    r"is no training id": "is not a valid train ID (expected ...)",
    r"training ids?": "train ID",
    r"(missing or unfit|unfit prediction)": "missing or invalid",
    r"longest gradient": "max gradient norm",
    r"name of the meeting": "rendezvous ID",
    r"parts that a batch": "gradient accumulation steps",
    r"by the book": "implemented but not tested",
    r"(surest|least sure)": "most or least confident",
    r"gradients? that (is|are) not finite": "non-finite gradients",
    r"misshapen": "shape mismatch",
    r"what (a|the) networks? costs?": "parameters, FLOPs and memory",
    r"at its highest": "base learning rate",
    r"colour\w*|behaviour\w*|normalis\w*|optimis\w*|initialis\w*|grey\w*|neighbour\w*|centre[sd]?": "American spelling",
}
BANNED = [(re.compile(rf"\b({pattern})\b", re.I), instead) for pattern, instead in INSTEAD.items()]


def texts_of(path):
    """Line numbers and texts of a Python file: strings (messages, help, docstrings) and comments."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose(text):
    """Markdown without code: blocks, quoted code, and links' targets."""
    text = re.sub(r"^( *)```.*?^\1```", lambda match: "\n" * match[0].count("\n"), text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>", "", text)


def found_in(text, where):
    return [f"{where}: '{match[0]}' ({instead})" for banned, instead in BANNED for match in banned.finditer(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_standard_terms(path):
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    assert not [each for number, line in enumerate(lines, 1) for each in found_in(line, f"{path.name}:{number}")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_lines_are_short(path):
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    whole = path.read_text(encoding="utf-8").splitlines()
    long = [n for n, line in enumerate(lines, 1) if len(whole[n - 1]) > 120 and line.strip() and line[0] != "|"]
    assert not long, f"{path.name}: lines {long} have over 120 characters"


def test_messages_and_docstrings_use_standard_terms():
    found = []
    for path in SOURCES:
        for number, text in texts_of(path):
            found += found_in(re.sub(r"``[^`]*``", "", text), f"{path.relative_to(ROOT)}:{number}")
    for path in SCRIPTS:
        found += found_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT))
    assert len(SOURCES) > 100 and not found, "\n".join(found)
