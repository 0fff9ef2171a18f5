"""``openseg.convert``: conversion of checkpoints of any known layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from openseg.config import Config, load_config
from openseg.errors import CheckpointError, ConfigError
from openseg.models.checkpoint.io import Checkpoint, KeyReport, load_weights, read_checkpoint, write_weights
from openseg.models.checkpoint.load import compare_classes, fit_config, fits
from openseg.models.factory import build_model
from openseg.schema import explain
from openseg.shipped import shipped_configs
from openseg.tools.common import as_config
from openseg.tools.paths import PathLike

__all__ = ["Conversion", "convert", "recognize"]

logger = logging.getLogger("openseg")


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint: file, source layout, config, and renamed and filled keys."""

    path: Path
    layout: str
    config: Config
    report: KeyReport


def convert(
    source: PathLike,
    target: PathLike,
    config: PathLike | Config | None = None,
    *,
    overrides: Sequence[str] = (),
    entry: str | None = None,
    half: bool = False,
) -> Conversion:
    """Write a checkpoint of any known layout as ``target`` (``.pth`` or ``.safetensors``), with its config.

    Args:
        source: checkpoint of a complete network.
        target: file to create, ``.pth`` or ``.safetensors``.
        config: its config; None is the one of ``configs/`` that it fits.
        overrides: config values to override, as ``key.sub=value``.
        entry: key of the network to convert, if the file has several, such as ``state_dict_ema``.
        half: store all but norms and biases as float16, in half the space; logits change slightly.

    Returns:
        The written file, its source layout, its config, and renamed and filled keys.

    Raises:
        CheckpointError: unknown layout, no or another config, or ``target`` exists.
    """
    out = Path(target)
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise CheckpointError(f"{target}: write to a .pth or a .safetensors file")
    if out.exists():
        raise CheckpointError(f"{target}: already exists; move it away, or write to another file")
    checkpoint = read_checkpoint(source, entry)
    settings = recognize(checkpoint, overrides) if config is None else as_config(config, overrides)
    compare_classes(settings, checkpoint)
    settings = fit_config(settings, checkpoint)
    model = build_model(settings)
    report = load_weights(model, checkpoint)
    write_weights(out, model, settings, half)
    return Conversion(out, checkpoint.converted.layout, settings, report)


def recognize(checkpoint: Checkpoint, overrides: Sequence[str] = (), dataset: str | None = None) -> Config:
    """The config of ``configs/`` that the weights fit; of several, the one that the file's name begins with.

    With ``dataset``, only how the network predicts matters: it takes the place of the dataset in the file's own
    config, and of several configs that predict alike any will do.
    """
    if "config" in checkpoint.content:
        if overrides:
            raise CheckpointError(f"{checkpoint.path}: holds its config; to change it, pass another with --config")
        try:
            values = checkpoint.content["config"]
            if dataset:  # only what the network predicts with matters
                kept = ("name", "task", "normalization", "model", "segfix", "refiner", "test")
                values = {key: values[key] for key in kept if key in values} | {"data": {"dataset": dataset}}
                task = values.get("task", "semantic")
                values |= {} if task == "semantic" else {"loss": {"type": task}}
            return Config.model_validate(values)
        except ValidationError as error:
            reason = explain(error, Config)
            raise CheckpointError(
                f"{checkpoint.path}: its config cannot be used here ({reason}); pass one with --config"
            ) from None
    open_settings = []  # what the file decides
    if "head_activation" in checkpoint.converted.settings:
        open_settings.append("model.head_activation=null")
    if checkpoint.converted.normalization is not None:
        open_settings.append(f"normalization={json.dumps(checkpoint.converted.normalization)}")
    name = checkpoint.path.name.replace("hrnet2x20", "hrnext20")
    candidates: list[tuple[Path, Config]] = []
    mistake, possible = None, 0
    configs = shipped_configs()
    for path in sorted(configs.glob("*/*.yaml")):
        try:
            candidates.append((path.relative_to(configs.parent), load_config(path, [*open_settings, *overrides])))
        except ConfigError as error:  # an override that this one cannot have
            mistake = error
    # What the file's name begins with comes first and decides, the longest name before all.
    candidates.sort(key=lambda each: -len(each[1].name) if name.startswith(f"{each[1].name}_") else 0)
    fitting: list[tuple[Path, Config]] = []
    for path, config in candidates:
        try:
            fitted = fit_config(config, checkpoint)
            found = fits(checkpoint, fitted)
            possible += 1
        except ConfigError as error:
            mistake = error
            continue
        except CheckpointError:  # of another backbone
            possible += 1
            continue
        if found:
            fitting.append((path, config))
            if name.startswith(f"{config.name}_"):
                break
    if mistake is not None and not possible:
        raise mistake
    if not fitting:
        raise CheckpointError(
            f"{checkpoint.path}: layout {checkpoint.converted.layout}, but its weights fit no config of configs/ "
            "as it is; name one and what differs, such as --config configs/cityscapes/hrnet48_ocr.yaml model.head=isa"
        )
    path, config = fitting[-1]
    parts = ("model", "test", "normalization", "task", "segfix", "refiner")
    alike = {json.dumps(each.model_dump(mode="json", include=set(parts))) for _, each in fitting}
    if len(fitting) > 1 and not (dataset and len(alike) == 1):
        names = ", ".join(str(each) for each, _ in fitting)
        raise CheckpointError(f"{checkpoint.path}: fits several configs, {names}; pass one with --config")
    logger.info("recognized as %s", path)
    return config
