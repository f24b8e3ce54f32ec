"""A handler for each operation whose multiply-adds count: fvcore's, and further ones for operations that fvcore counts not at
all, or not exactly. fvcore's handlers of norms, pooling and interpolation are left out.
"""

from collections.abc import Callable
from math import prod
from typing import cast

import torch

Values = list[torch._C.Value]  # inputs or outputs of an operation in a trace

Handler = Callable[[Values, Values], object]


def handlers() -> dict[str, Handler]:
    """Handlers by the name that an operation has in a trace."""
    from fvcore.nn import jit_handles

    return {
        "aten::_convolution": jit_handles.conv_flop_jit,
        "aten::_convolution_mode": _convolution,
        "aten::linear": jit_handles.linear_flop_jit,
        "aten::addmm": jit_handles.addmm_flop_jit,
        "aten::mm": jit_handles.matmul_flop_jit,
        "aten::bmm": jit_handles.bmm_flop_jit,
        "aten::baddbmm": lambda inputs, outputs: jit_handles.bmm_flop_jit(inputs[1:3], outputs),
        "aten::matmul": jit_handles.matmul_flop_jit,
        "aten::einsum": _einsum,
        "aten::scaled_dot_product_attention": _attention,
        **dict.fromkeys(("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"), _recurrent),
    }


def _shape(value: torch._C.Value) -> list[int]:
    from fvcore.nn.jit_handles import get_shape

    return list(get_shape(value))


def _convolution(inputs: Values, outputs: Values) -> int:
    """A convolution whose padding is a word, such as ``"same"``."""
    weight, output = _shape(inputs[1]), _shape(outputs[0])
    return output[0] * prod(weight) * prod(output[2:])


def _attention(inputs: Values, outputs: Values) -> int:
    """The products of queries (..., L, E) with keys (..., S, E), and of the weights (..., L, S) with values (..., S, V)."""
    query, key, value = map(_shape, inputs[:3])
    return prod(query) * key[-2] + prod(query[:-1]) * key[-2] * value[-1]


def _recurrent(inputs: Values, outputs: Values) -> int:
    """Recurrent layers: each weight matrix is multiplied once for each step of each sequence."""
    matrices = [shape for shape in map(_shape, inputs[2].node().inputs()) if len(shape) == 2]
    return prod(_shape(inputs[0])[:-1]) * sum(map(prod, matrices))


def _einsum(inputs: Values, outputs: Values) -> int:
    """Two operands at a time, from left to right; fvcore rounds the count to four digits.

    Indices that only one of the two has are summed first where nothing else needs them. Where nothing is summed over both,
    there is no matrix product.
    """
    equation = cast(str, inputs[0].toIValue()).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow:
        result = "".join(letter for letter in set(terms) if terms.count(letter) == 1)
    operands = [_index_sizes(term, value) for term, value in zip(terms.split(","), inputs[1].node().inputs(), strict=True)]
    total, left = 0, operands[0]
    for position, right in enumerate(operands[1:], 2):
        union = left | right
        needed = {index for index in union if index in result or index.startswith("...")}.union(*operands[position:])
        if left.keys() & right.keys() - needed:
            total += prod(size for index, size in union.items() if index in needed or (index in left and index in right))
        left = {index: size for index, size in union.items() if index in needed}
    return total


def _index_sizes(term: str, operand: torch._C.Value) -> dict[str, int]:
    """Sizes of the indices of one operand, those of an ellipsis as ``...1`` and so on from the last; size 1 is left out."""
    shape = _shape(operand)
    before, ellipsis, after = term.partition("...")
    hidden = [f"...{number}" for number in range(len(shape) - len(before) - len(after), 0, -1)] if ellipsis else []
    return {index: size for index, size in zip([*before, *hidden, *after], shape, strict=True) if size != 1}
