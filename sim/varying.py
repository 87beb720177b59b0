"""Compiled functions of matrices, most of whose entries may be constants: only those that vary are computed.

Jacobians are such. What is not computed need not be compiled either, and takes most of the time to.
"""

import json
from collections.abc import Callable
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
        outputs = [np.repeat(constant[None], n, 0) for constant in self.constant]
        if self.kernel is None or not n:
            return outputs
        if self.kernel.native:
            numbers = [np.require(a, float, "A") for a in inputs]  # kept until they have been read
            table = [rows(a, 1, 0, None) for a in numbers]
            table += [rows(output, 1, 0, None)[entries] for output, entries in zip(outputs, self.entries)]
            self.kernel.bind(n, 1, np.concatenate(table))()
            return outputs
        found, at = self.kernel(*inputs), 0
        for output, entries in zip(outputs, self.entries):
            output.reshape(n, -1)[:, entries] = found[:, at : at + len(entries)]
            at += len(entries)
        return outputs
