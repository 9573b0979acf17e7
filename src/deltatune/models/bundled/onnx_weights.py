"""Reading the weights of a PyTorch model back out of its ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class OnnxWeights:
    """The float32 weights of an ONNX graph, under the names they had in PyTorch.

    The exporter keeps the names of embeddings, norms and biases. The weight of a `Linear` becomes an
    anonymous, transposed operand of a MatMul node, and the node's name tells the module. Dynamic int8
    quantization replaces `w` by `w_quantized`, `w_scale`, `w_zero_point` with
    w = scale * (quantized - zero_point).

    Args:
        path: The ONNX file.
        prefix: The leading part of the names that is not part of the PyTorch module path, e.g. "enc.".
    """

    def __init__(self, path: Path, prefix: str) -> None:
        import onnx

        self._prefix = prefix
        graph: Any = onnx.load(path).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._linears = {
            self._module_path(node.name): node.input[1]
            for node in graph.node
            if node.op_type in ("MatMul", "MatMulInteger") and node.input[1] in self._tensors
        }

    def _module_path(self, node_name: str) -> str:
        path = node_name.strip("/").rsplit("/", 1)[0].replace("/", ".")
        return path.removeprefix(self._prefix)

    def _read(self, name: str) -> npt.NDArray[Any]:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name])

    def _dequantized(self, stem: str) -> Array:
        quantized = self._read(f"{stem}_quantized").astype(np.float32)
        return self._read(f"{stem}_scale") * (quantized - self._read(f"{stem}_zero_point").astype(np.float32))

    def named(self) -> dict[str, Array]:
        """The tensors that kept their name, which is where the prefix stands, without the prefix."""
        found: dict[str, Array] = {}
        for name in self._tensors:
            if not name.startswith(self._prefix):
                continue
            path = name.removeprefix(self._prefix)
            if name.endswith("_quantized"):
                stem = name.removesuffix("_quantized")
                found[path.removesuffix("_quantized")] = self._dequantized(stem)
            elif not name.endswith(("_scale", "_zero_point")):
                found[path] = self._read(name)
        return found

    def linears(self) -> dict[str, Array]:
        """`<module path>.weight` -> weight of shape [out, in], for every MatMul with a stored operand."""
        found: dict[str, Array] = {}
        for path, operand in self._linears.items():
            quantized = operand.endswith("_quantized")
            weight = (
                self._dequantized(operand.removesuffix("_quantized")) if quantized else self._read(operand)
            )
            found[f"{path}.weight"] = np.ascontiguousarray(weight.T)
        return found

    def anonymous(self, shape: tuple[int, ...]) -> Array:
        """The one tensor that lost its name and has this shape: a parameter the exporter folded or split."""
        named = (name for name, tensor in self._tensors.items() if tuple(tensor.dims) == shape)
        (name,) = (name for name in named if not name.startswith(self._prefix))
        return self._read(name)
