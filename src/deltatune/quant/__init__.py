"""Quantized bases: how a base's frozen weights are kept in few bits, and read back.

A delta adds to whatever the quantized layer returned, so methods know nothing of this. Only what depends on
the weights themselves (initialisations, magnitudes, counts of parameters) asks here.
"""

from deltatune.quant.codec import (
    WeightCodec,
    codec_of,
    describe,
    held,
    parameter_count,
    parameter_shape,
    read_weight,
    register,
    settle_,
    undividable,
)

__all__ = [
    "WeightCodec",
    "codec_of",
    "describe",
    "held",
    "parameter_count",
    "parameter_shape",
    "read_weight",
    "register",
    "settle_",
    "undividable",
]
