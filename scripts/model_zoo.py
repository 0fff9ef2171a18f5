"""Write the tables of MODEL_ZOO.md from the configs: python scripts/model_zoo.py [--check].

Between the lines ``<!-- table: PATTERN KIND -->`` and ``<!-- end -->`` stands a table of the configs of a pattern.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lib"))

from openseg.config import Config, load_config

HEADS = {"base_oc": "Base-OC", "isa": "ISA", "ocr": "OCR", "asp_ocr": "ASP-OCR"}
BACKBONES = {
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "hrnet48": "HRNet-W48",
    "hrnext20": "Higher-HRNet",
}
ORDER = [*BACKBONES]


def main() -> int:
    """Rewrite the page, or with ``--check`` say whether it is current; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the tables of MODEL_ZOO.md from the configs.")
    parser.add_argument("--check", action="store_true", help="check that the tables are current, without writing")
    check = parser.parse_args().check
    path = ROOT / "MODEL_ZOO.md"
    text = path.read_text(encoding="utf-8")
    current = re.sub(
        r"(<!-- table: (\S+) (\w+) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + table(match[2], match[3]) + match[4],
        text,
        flags=re.DOTALL,
    )
    if not check:
        path.write_text(current, encoding="utf-8")
    elif current != text:
        print("MODEL_ZOO.md: tables do not match the configs; run: python scripts/model_zoo.py", file=sys.stderr)
        return 1
    return 0


def table(pattern: str, kind: str) -> str:
    """A table of the configs that match ``pattern``; ``kind`` is scores, recipes or segfix."""
    scripts = launchers()
    configs = [(path, load_config(path)) for path in sorted((ROOT / "configs").glob(pattern)) if path in scripts]
    configs = [(path, config) for path, config in configs if kind_of(config) == kind]
    configs.sort(key=lambda each: (ORDER.index(each[1].model.backbone), [*HEADS].index(each[1].model.head)))
    rows = []
    for path, config in configs:
        places = {"Script": code(scripts[path]), "Config": code(path.relative_to(ROOT).as_posix())}
        rows += [row | places for row in KINDS[kind](config)]
    lines = [f"| {' | '.join(cells)} |" for cells in (rows[0], *(row.values() for row in rows))]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])


def launchers() -> dict[Path, str]:
    """The script of each config."""
    found = {}
    for path in sorted((ROOT / "scripts").glob("*/**/run_*.sh")):
        for name in re.findall(r"^CONFIG=(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[ROOT / name] = path.relative_to(ROOT).as_posix()
    return found


def kind_of(config: Config) -> str:
    """Which table a config belongs to."""
    if config.task == "segfix":
        return "segfix"
    return "scores" if config.published.scores else "recipes"


def scored(config: Config) -> Iterator[Mapping[str, str]]:
    """A row for each published score."""
    known = config.published
    links = ", ".join(
        f"[{name}]({address})" for name, address in (("log", known.log), ("model", known.weights)) if address
    )
    for number, score in enumerate(known.scores):
        refined = {"mIoU w/ SegFix": f"{score.mIoU_segfix:.2f}"} if score.mIoU_segfix else {}
        yield {
            **method(config),
            **training(config),
            "OHEM": yes(any(term.type == "ohem" for term in config.loss)),
            "Multi-scale": yes(score.multi_scale),
            "Flip": yes(score.flip),
            "mIoU": f"{score.mIoU:.2f}",
            **refined,
            "Files": links if number == 0 else "as above",
            "Checkpoint name": checkpoint(config),
        }


def recipe(config: Config) -> Iterator[Mapping[str, str]]:
    """The row of a config without published figures."""
    yield method(config)


def segfix(config: Config) -> Iterator[Mapping[str, str]]:
    """The row of a SegFix network."""
    published = training(config)
    published.pop("Test set")
    kind = (config.published.offsets or "").partition("/")[0]
    yield {
        "Backbone": BACKBONES[config.model.backbone],
        "Trained on": {"instance": "instances"}.get(kind, kind),
        **published,
        "File": f"[model]({config.published.weights})" if config.published.weights else "none",
        "Checkpoint name": checkpoint(config),
    }


KINDS = {"scores": scored, "recipes": recipe, "segfix": segfix}


def method(config: Config) -> dict[str, str]:
    """Head and backbone."""
    return {"Method": HEADS[config.model.head], "Backbone": BACKBONES[config.model.backbone]}


def training(config: Config) -> dict[str, str]:
    """How it was trained."""
    return {
        "Train set": config.data.train_split.replace("+", " + "),
        "Test set": config.data.val_split,
        "Iterations": str(config.train.max_iters),
        "Batch size": str(config.train.batch_size),
    }


def checkpoint(config: Config) -> str:
    """The published file's name."""
    return code(config.published.checkpoint or f"{config.name}_{config.published.id}_latest.pth")


def code(text: str) -> str:
    """Text in a fixed-width font."""
    return f"`{text}`"


def yes(value: bool) -> str:
    """A truth value in words."""
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
