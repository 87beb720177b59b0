"""Work on a GPU that is recorded once and then played again: one launch in place of one for each operation."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Found = TypeVar("Found")


class Graph(Generic[Found]):
    """What `work` does with tensors of certain shapes, recorded as a CUDA graph.

    Its results are overwritten by the next call. Whatever else `work` reads is read where it was when it was recorded.

    Args:
        work: from tensors on the GPU to tensors there; it must neither wait for the GPU nor copy from the host.
        given: tensors of the shapes to come; None for what is not there.
        generator: that `work` draws from, on the GPU; each call then draws anew.
    """

    def __init__(
        self,
        work: Callable[..., Found],
        given: Sequence[Tensor | None],
        generator: torch.Generator | None = None,
    ) -> None:
        self._given = [None if z is None else z.clone() for z in given]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries set up at their first call can not be recorded
            for _ in range(2):
                work(*self._given)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            self._found = work(*self._given)

    def __call__(self, *given: Tensor | None) -> Found:
        """The results for other numbers."""
        for own, new in zip(self._given, given):
            if own is not None and new is not None:
                own.copy_(new)
        self._graph.replay()
        return self._found
