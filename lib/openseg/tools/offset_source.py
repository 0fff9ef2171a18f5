"""Default locations of a split's offsets."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, DataError
from openseg.segfix.offset_files import archive_names

__all__ = ["find_offsets", "require_split"]

logger = logging.getLogger("openseg")

_DEFAULT = "offset_hrnext"
_INSIDE = {"val": "val/offset_pred", "test": "test_offset"}


def require_split(split: str) -> None:
    """Raises ConfigError where ``split`` is neither val nor test."""
    if split not in _INSIDE:
        raise ConfigError(f"split '{split}': use val, or test")


def find_offsets(split: str, dataset: str, root: Path, kind: str = "semantic") -> Path:
    """The folder of offsets that the documentation names for a split; ``kind`` is semantic or instance.

    Raises:
        DataError: there is none, or several to choose from, and none of them is the documented ``offset_hrnext``.
    """
    info = get_dataset_info(dataset)
    data = root / info.folder
    archive = data / f"offset_{kind}.zip"
    parents = [data / _INSIDE[split] / kind, Path("offset_pred") / split / kind / info.name]
    found = [sorted(path for path in parent.glob("offset_*") if path.is_dir()) for parent in parents]
    found.insert(1, _folders_of_archive(archive, split) if archive.is_file() else [])
    for folders in found:
        default = [folder for folder in folders if folder.name == _DEFAULT]
        if len(folders) > 1 and default:
            others = ", ".join(folder.name for folder in folders if folder not in default)
            logger.info("several folders of offsets: taking %s, and not %s (--offset)", default[0], others)
            return default[0]
        if len(folders) > 1:
            names = ", ".join(str(path) for path in folders)
            raise DataError(f"several folders of offsets: {names}; choose one with --offset")
        if folders:
            return folders[0]
    tried = ", ".join([f"{parents[0]}/offset_<backbone>", str(archive), f"{parents[1]}/offset_<backbone>"])
    raise DataError(
        f"no offsets in {tried}; predict them with a segfix launcher (segfix_pred_{split}), or pass --offset"
    )


def _folders_of_archive(archive: Path, split: str) -> list[Path]:
    """Folders of offsets inside an archive; those of the split where the archive tells them apart."""
    folders = sorted({PurePosixPath(name).parent for name in archive_names(archive)})
    other = _INSIDE["test" if split == "val" else "val"]
    return [archive / folder for folder in folders if other not in folder.as_posix()]
