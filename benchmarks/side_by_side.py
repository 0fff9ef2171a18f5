"""How the other programs of this folder measure: all ways take turns in one run, and medians are compared."""

import statistics
import time
from collections.abc import Callable


def median_seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each way; they take turns, so that what else the machine does meets all of them."""
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
