"""Docstrings of the public API: complete, and their examples run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import openseg
from openseg.cli.options import _texts
from openseg.datasets.augmentations import TRANSFORMS
from openseg.losses.registry import LOSSES
from openseg.metrics.registry import METRICS
from openseg.models.factory import BACKBONES, HEADS

PUBLIC = {name: getattr(openseg, name) for name in openseg.__all__}
FUNCTIONS = sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value))
MODULES = sorted(module.name for module in pkgutil.walk_packages(openseg.__path__, "openseg."))
# What functions of one kind share is explained once.
SAME_AS = re.compile(r"arguments and errors are those of ``(\w+)``")


def explained(name):
    """Names of the parameters in ``Args`` of a function, or of the function that it refers to; as in ``--help``."""
    other = SAME_AS.search(inspect.getdoc(PUBLIC[name]))
    return {*_texts(PUBLIC[name])} | (explained(other[1]) if other else set())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_explained(name):
    function = PUBLIC[name]
    text = inspect.getdoc(function)
    summary = text.split("\n\n")[0]
    assert summary.endswith(".") and "\n" not in summary, summary
    parameters = set(inspect.signature(function).parameters)
    assert not parameters - explained(name), f"parameters without a text: {sorted(parameters - explained(name))}"
    assert re.search(r"^Returns:\n    \S", text, re.M), "says nothing of what it returns"
    assert not re.search(r"^Example:", text, re.M), "the site shows code only under Examples:"
    assert re.search(r"^Raises:\n    \S", text, re.M) or SAME_AS.search(text), "says nothing of its errors"


@pytest.fixture
def registries():
    """Takes back what examples register, whose names other tests use too."""
    kept = [(each, dict(each)) for each in (BACKBONES, HEADS, LOSSES, METRICS, TRANSFORMS)]
    yield
    for registry, entries in kept:
        registry.clear()
        registry.update(entries)


def test_examples_run(capsys, registries):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    ran = set()
    for module in MODULES:
        for test in finder.find(importlib.import_module(module), module):
            runner.run(test)
            ran |= {test.name} if test.examples else set()
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
    assert {"openseg.models.factory.create_model", "openseg.segfix", "openseg.losses.registry.register_loss"} <= ran
