"""How the other programs of this folder measure: all ways take turns in one run, and medians are compared."""

import statistics
import time
from collections.abc import Callable


def median_seconds(
    ways: dict[str, Callable[[], object]], rounds: int, seconds: float | None = None
) -> dict[str, float]:
    """The median time of each way; they take turns, so that what else the machine does meets all of them.

    ``seconds``: no round begins after them, except the first.
    """
    times = {name: [] for name in ways}
    began = time.perf_counter()
    for number in range(rounds):
        if number and seconds is not None and time.perf_counter() - began > seconds:
            break
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}
