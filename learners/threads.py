"""Threads of our own for torch's work on a CPU.

Those of OpenMP, which torch has by itself, wait spinning and starve whatever else runs on the cores: another thread, a
viewer, a second process. Here work is cut into jobs beforehand, in a way that does not depend on how many threads there
are, and neither does what is computed.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from ..sim.interface import available_cores

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_threads(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """What `work` makes of each of the jobs, on as many cores as there are; one after another where torch has several.

    The calling thread works too, so that of two jobs one needs no thread to be woken. Jobs must not depend on each
    other, nor call this function, and torch's modes (no gradients, inference) are each thread's own: `work` sets them.

    Raises:
        Exception: what `work` raised, when all others have ended.
    """
    threads = min(len(jobs), available_cores())
    if threads < 2 or torch.get_num_threads() > 1:
        return [work(job) for job in jobs]
    first, *others = jobs
    futures = [_pool(threads - 1).submit(work, job) for job in others]
    try:
        found = [work(first)]
        # What no thread has begun with when this one is free is done here.
        for k in reversed(range(len(futures))):
            if futures[k].cancel():
                futures[k] = Future()
                futures[k].set_result(work(others[k]))
    finally:
        wait([future for future in futures if not future.cancel()])
    return found + [future.result() for future in futures]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="learners")
