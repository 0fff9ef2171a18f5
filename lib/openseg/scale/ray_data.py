"""Work on a ``ray.data.Dataset``: bytes in one column, bytes in others."""

from __future__ import annotations

from typing import Any

from openseg.errors import ConfigError, DataError
from openseg.io.blob import Blob
from openseg.io.storage import Place
from openseg.plugins import loaded_plugins
from openseg.scale.on_ray import Actor, require_ray, shipped_files
from openseg.scale.results import Results
from openseg.scale.settings import Scale
from openseg.scale.units import Unit
from openseg.scale.worker import Worker

__all__ = ["mapped"]


class _Mapper(Actor):
    """Called by Ray with batches, as a dict of columns."""

    def __init__(self, unit: Unit, columns: dict[str, str], files: Any, plugins: Any) -> None:
        import ray

        worker = Worker(unit, (), Results(Place("."), {}))
        super().__init__(worker, ray.get(files), plugins)
        self.unit, self.columns = unit, columns

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = len(batch["id"])
        results: dict[str, list[Any]] = {kind or "label": [] for kind in self.unit.kinds}
        facts: dict[str, list[Any]] = {"sha256": [], "error": []}
        for row in range(rows):
            name = str(batch["id"][row])
            done, error = self._one(name, batch, row)
            for kind in self.unit.kinds:
                results[kind or "label"].append(done.get(kind))
            facts["sha256"].append(done.get("sha256"))
            facts["error"].append(error)
        return {"id": batch["id"], **results, **facts}

    def _one(self, name: str, batch: dict[str, Any], row: int) -> tuple[dict[str, Any], str | None]:
        try:
            blobs = [Blob(f"{name}{_suffix(content)}", content) for content in self._parts(batch, row, name)]
            done = self.unit.finish(self.unit.compute(self.unit.prepare(blobs)))
        except DataError as error:
            return {}, str(error)
        return {**done.outputs, "sha256": done.facts["sha256"]}, None

    def _parts(self, batch: dict[str, Any], row: int, name: str) -> list[bytes]:
        parts = [batch[self.columns.get(role, role)][row] for role in self.unit.roles]
        if not all(isinstance(each, bytes) for each in parts):
            raise DataError(f"{name}: a cell holds no bytes")
        return parts


def _suffix(content: bytes) -> str:
    return ".mat" if content.startswith(b"MATLAB") else ".png"


def mapped(dataset: Any, unit: Unit, how: Scale) -> Any:
    """The dataset with results for each row, computed when it is consumed.

    Raises:
        ConfigError: it is no Ray dataset, or lacks a column.
    """
    ray = require_ray()
    if not isinstance(dataset, ray.data.Dataset):
        raise ConfigError(f"give a folder, an address or a ray.data.Dataset, not {type(dataset).__name__}")
    wanted = {"id", *(how.named.get(role, role) for role in unit.roles)}
    missing = sorted(wanted - {*dataset.schema().names})
    if missing:
        raise ConfigError(f"the dataset has no column {', '.join(missing)}; name columns with Scale(columns=...)")
    files = ray.put(shipped_files(Worker(unit, (), Results(Place("."), {}))))
    return dataset.map_batches(
        _Mapper,
        fn_constructor_args=(unit, how.named, files, loaded_plugins()),
        batch_size=how.block or unit.block,
        compute=ray.data.ActorPoolStrategy(size=how.num_workers) if how.num_workers else ray.data.ActorPoolStrategy(),
        num_cpus=how.num_cpus_per_worker,
        num_gpus=how.num_gpus_per_worker or None,
        batch_format="numpy",
    )
