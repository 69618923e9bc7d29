"""The stages that a codec's text can name: `STAGES`. They are imported when used."""

from __future__ import annotations

from dataclasses import dataclass

# The roles of stages, in the order in which a chain has them. A stage of the role
# "whole" takes the whole vector, in place of select, quantise and pack.
PREDICT = "predict"
SELECT = "select"
QUANTISE = "quantise"
PACK = "pack"
WHOLE = "whole"


@dataclass(frozen=True)
class Argument:
    """A number that a stage takes."""

    name: str
    low: float
    high: float
    # Whether the number must be above ``low``.
    above: bool = False
    default: float | None = None

    def __str__(self) -> str:
        """Return the name and the range, for error messages."""
        low = f"{self.low:g}"
        high = f"{self.high:g}"
        if self.above:
            return f"{self.name} above {low} up to {high}"
        return f"{self.name} from {low} to {high}"


@dataclass(frozen=True)
class Stage:
    """What a name in a chain stands for."""

    role: str
    # ``module:attribute`` of a codec's class, or of a function that returns one.
    path: str
    about: str
    takes: tuple[Argument, ...] = ()
    # Whether the error is larger than what is sent, so that error feedback would grow
    # without end.
    unbiased_noise: bool = False


_SHARE = Argument("share of the values", 0, 1, above=True)

STAGES = {
    "pred": Stage(
        PREDICT,
        "fedlearn.codec.predict:Predicted",
        "what the model's movement so far predicts is not sent",
    ),
    "topk": Stage(
        SELECT,
        "fedlearn.codec.sparse:TopK",
        "the largest magnitudes",
        (_SHARE,),
    ),
    "randk": Stage(
        SELECT,
        "fedlearn.codec.sparse:RandomK",
        "random values, unbiased, no bytes for their places",
        (_SHARE,),
        unbiased_noise=True,
    ),
    "raw32": Stage(
        QUANTISE,
        "fedlearn.codec.plain:Raw32",
        "float32 as it is, 4 bytes a value, exact",
    ),
    "f16": Stage(
        QUANTISE,
        "fedlearn.codec.plain:Float16",
        "half precision, 2 bytes a value, rounded to nearest",
    ),
    "bf16": Stage(
        QUANTISE,
        "fedlearn.codec.plain:BFloat16",
        "the upper half of float32, 2 bytes a value, rounded to nearest",
    ),
    "q8": Stage(
        QUANTISE,
        "fedlearn.codec.buckets:q8",
        "8-bit levels, stochastic and unbiased, a float32 scale per 1,024 values",
    ),
    "q4": Stage(
        QUANTISE,
        "fedlearn.codec.buckets:q4",
        "4-bit levels, stochastic and unbiased, a float32 scale per 256 values",
    ),
    "q4c": Stage(
        QUANTISE,
        "fedlearn.codec.quantise:Centroids",
        "a sign and one of 8 magnitudes, 4 bits a value; biased",
    ),
    "tern": Stage(
        QUANTISE,
        "fedlearn.codec.quantise:Signs",
        "after a select: a sign a value, one magnitude per tensor; biased",
    ),
    "sign": Stage(
        QUANTISE,
        "fedlearn.codec.quantise:Signs",
        "a sign a value, one magnitude per tensor; biased",
    ),
    "rice": Stage(
        PACK,
        "fedlearn.codec.pack:rice",
        "after topk: gaps in Rice codes, the fastest",
    ),
    "gapz": Stage(
        PACK,
        "fedlearn.codec.pack:gapz",
        "after topk: gaps and values deflated",
    ),
    "grid": Stage(
        PACK,
        "fedlearn.codec.pack:grid",
        "after topk: Rice codes by busy rows and columns, the smallest for matrices",
    ),
    "range": Stage(
        PACK,
        "fedlearn.codec.pack:lzma_range",
        "after topk: gaps through LZMA's range coder",
    ),
    "deflate": Stage(
        PACK,
        "fedlearn.codec.sparse:Deflated",
        "without topk: what is sent, deflated",
    ),
    "eden1": Stage(
        WHOLE,
        "fedlearn.codec.eden:Eden1",
        "EDEN: one bit a value after a random rotation, unbiased",
    ),
    "uvq": Stage(
        WHOLE,
        "fedlearn.codec.uvq:Uvq",
        "unbiased at a fraction of a bit a value",
        (Argument("bits a value", 0.01, 2),),
        unbiased_noise=True,
    ),
    "cvq": Stage(
        WHOLE,
        "fedlearn.codec.cvq:Cvq",
        "contracting at a fraction of a bit a value",
        (Argument("bits a value", 0.02, 4), Argument("eta", 0, 1, default=0)),
    ),
}
