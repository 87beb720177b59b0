"""Compiled functions of matrices, most of whose entries may be constants: only those that vary are computed.

Jacobians are such. What is not computed need not be compiled either, and takes most of the time to.
"""

from typing import Any

import numpy as np

from .codegen import compile, rows


class Varying:
    """A compiled `casadi.Function` of columns.

    Args:
        function: its inputs are columns, its outputs of any shape.

    Attributes:
        sizes: of the inputs.
        constant: of each output, its entries (r, c), 0 where they vary.
        entries: of each output, which of its entries vary, rows first.
        kernel: computes those, of all outputs together; None where nothing varies.
    """

    def __init__(self, function: Any) -> None:
        import casadi as ca

        self.sizes = [function.size1_in(k) for k in range(function.n_in())]
        inputs = [ca.SX.sym(f"i{k}", size) for k, size in enumerate(self.sizes)]
        self.constant: list[np.ndarray] = []
        self.entries: list[np.ndarray] = []
        varying = []
        for output in function.call(inputs):
            cells = [output[i, j] for i in range(output.shape[0]) for j in range(output.shape[1])]
            fixed = [cell.is_constant() for cell in cells]
            numbers = [float(cell) if known else 0.0 for cell, known in zip(cells, fixed)]
            self.constant.append(np.array(numbers).reshape(output.shape))
            self.entries.append(np.flatnonzero(~np.array(fixed, bool)))
            varying += [cells[i] for i in self.entries[-1]]
        self.kernel = None
        if varying:
            self.kernel = compile(ca.Function(function.name(), inputs, [ca.vertcat(*varying)], {"cse": True}))

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
