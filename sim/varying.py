"""Compiled functions of matrices, most of whose entries may be constants: only those that vary are computed.

Jacobians are such. What is not computed need not be compiled either, and takes most of the time to.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .codegen import compile, remembered, remembered_note, rows
from .native import read, write


class Varying:
    """A compiled `casadi.Function` of columns.

    Args:
        build: makes the function; its inputs are columns, its outputs of any shape.
        key: see `codegen.remembered`; None where nothing is to be remembered.

    Attributes:
        sizes: of the inputs.
        constant: of each output, its entries (r, c), 0 where they vary.
        entries: of each output, which of its entries vary, rows first.
        kernel: computes those, of all outputs together; None where nothing varies.
    """

    def __init__(self, build: Callable[[], Any], key: str | None = None) -> None:
        note = None if key is None else remembered_note(key)
        found = None if note is None else read(note)
        if found is not None:
            told = json.loads(found)
            self.sizes = told["sizes"]
            self.constant = [np.array(numbers).reshape(shape) for numbers, shape in told["constant"]]
            self.entries = [np.array(entries, int) for entries in told["entries"]]
        else:
            self._sort(build())
            if note is not None:
                told = {
                    "sizes": self.sizes,
                    "constant": [(c.ravel().tolist(), c.shape) for c in self.constant],
                    "entries": [entries.tolist() for entries in self.entries],
                }
                write(note, json.dumps(told).encode())
        self.kernel = None
        if any(len(entries) for entries in self.entries):
            if key is None:
                self.kernel = compile(self._varying(build()))
            else:
                self.kernel = remembered(key, lambda: self._varying(build()))

    def _outputs(self, function: Any) -> tuple[list[Any], list[list[Any]]]:
        """Symbols for the inputs, and the entries of each output, rows first."""
        import casadi as ca

        inputs = [ca.SX.sym(f"i{k}", function.size1_in(k)) for k in range(function.n_in())]
        outputs = function.call(inputs)
        return inputs, [[o[i, j] for i in range(o.shape[0]) for j in range(o.shape[1])] for o in outputs]

    def _sort(self, function: Any) -> None:
        """Tells entries that are constants from those that vary."""
        self.sizes = [function.size1_in(k) for k in range(function.n_in())]
        self.constant, self.entries = [], []
        for k, cells in enumerate(self._outputs(function)[1]):
            fixed = np.array([cell.is_constant() for cell in cells], bool)
            numbers = [float(cell) if known else 0.0 for cell, known in zip(cells, fixed)]
            self.constant.append(np.array(numbers).reshape(function.size_out(k)))
            self.entries.append(np.flatnonzero(~fixed))

    def _varying(self, function: Any) -> Any:
        """The function of those that vary, of all outputs in one column."""
        import casadi as ca

        inputs, outputs = self._outputs(function)
        cells = [cells[i] for cells, entries in zip(outputs, self.entries) for i in entries]
        return ca.Function(function.name(), inputs, [ca.vertcat(*cells)], {"cse": True})

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs (n, r, c) for inputs (n, size).

        Raises:
            ValueError: inputs of other shapes.
        """
        n = len(inputs[0])
        for k, (given, size) in enumerate(zip(inputs, self.sizes, strict=True)):
            if given.shape != (n, size):
                raise ValueError(f"input {k} has shape {given.shape}, not ({n}, {size})")
        numbers = [np.require(a, float, "A") for a in inputs]
        outputs = [np.empty((n, *constant.shape)) for constant in self.constant]
        if n:
            self.bind(numbers, outputs)()
        return outputs

    def bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """Writes the entries that do not vary, and returns what writes the others at each call.

        Args:
            inputs: of float64 (n, size), aligned; they are read wherever they lie at each call.
            outputs: the same (n, r, c), kept by whoever calls.
        """
        for output, constant in zip(outputs, self.constant):
            output[...] = constant
        if self.kernel is None:
            return _nothing
        if not self.kernel.native:
            return functools.partial(self._interpret, inputs, outputs)
        table = [rows(a, 1, 0, None) for a in inputs]
        table += [rows(output, 1, 0, None)[entries] for output, entries in zip(outputs, self.entries)]
        return self.kernel.bind(len(inputs[0]), 1, np.concatenate(table))

    def _interpret(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        assert self.kernel is not None
        found, at = self.kernel(*inputs), 0
        for output, constant, entries in zip(outputs, self.constant, self.entries):
            row, column = np.unravel_index(entries, constant.shape)
            output[:, row, column] = found[:, at : at + len(entries)]
            at += len(entries)


def _nothing() -> None:
    """What has nothing to write."""
