"""The language of codecs: stages joined by ``+``, such as ``topk(0.01)+tern`` or ``ef+topk(0.05)+q4c+grid``.

A chain is ``[ef+] [pred+] [select+] quantise [+pack]``: what is predicted, which values are sent, how each is written, and
how the result is made smaller. Some codecs take the whole vector, in place of the last three. `STAGES` names all of them;
they are imported when used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from fedlearn.codec.protocol import FEEDBACK, Codec
from fedlearn.errors import ConfigError, FedlearnError
from fedlearn.names import import_path, nearest

LONGEST = 80
"""Characters of a codec's text; payloads carry it, and their senders may be hostile."""

PREDICT, SELECT, QUANTISE, PACK, WHOLE = (
    "predict",
    "select",
    "quantise",
    "pack",
    "whole",
)


@dataclass(frozen=True)
class Argument:
    """A number that a stage takes."""

    name: str
    low: float
    high: float
    above: bool = False  # whether it must be above ``low``
    default: float | None = None

    def __str__(self) -> str:
        """Return what error messages say of it."""
        return f"{self.name} {'above' if self.above else 'from'} {self.low:g} {'up to' if self.above else 'to'} {self.high:g}"


@dataclass(frozen=True)
class Stage:
    """What a name in a chain stands for."""

    role: str
    path: str
    about: str
    takes: tuple[Argument, ...] = ()
    unbiased_noise: bool = False  # whether its error is larger than what it sends, so that error feedback would grow without end


_SHARE = Argument("share of the values", 0, 1, above=True)

STAGES = {
    "pred": Stage(
        PREDICT,
        "fedlearn.codec.predict:Predicted",
        "what the model's movement so far predicts is not sent",
    ),
    "topk": Stage(
        SELECT, "fedlearn.codec.sparse:Largest", "the largest magnitudes", (_SHARE,)
    ),
    "randk": Stage(
        SELECT,
        "fedlearn.codec.sparse:Drawn",
        "random values, unbiased, no bytes for their places",
        (_SHARE,),
        True,
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
        PACK, "fedlearn.codec.pack:rice", "after topk: gaps in Rice codes, the fastest"
    ),
    "gapz": Stage(
        PACK, "fedlearn.codec.pack:gapz", "after topk: gaps and values deflated"
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
        PACK, "fedlearn.codec.sparse:Deflated", "without topk: what is sent, deflated"
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

_TOKEN = re.compile(r"([a-z][a-z0-9]*)(?:\(([^()]*)\))?", re.ASCII)
_NUMBER = re.compile(r"(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e-?\d{1,2})?", re.ASCII)


@dataclass(frozen=True)
class Link:
    """A stage of a chain and its numbers."""

    name: str
    numbers: tuple[float, ...] = ()

    @property
    def role(self) -> str:
        """Return its place in a chain."""
        return STAGES[self.name].role

    def __str__(self) -> str:
        """Return it as text: the shortest that gives the same numbers. One more default later changes no text of today."""
        told = list(self.numbers)
        for argument in reversed(STAGES[self.name].takes):
            if argument.default is None or told[-1] != argument.default:
                break
            told.pop()
        return self.name + (
            f"({','.join(repr(n).removesuffix('.0') for n in told)})" if told else ""
        )


@dataclass(frozen=True)
class Chain:
    """A parsed text; ``str`` gives its canonical form, which parses to the same chain."""

    links: tuple[Link, ...]
    feedback: bool = (
        False  # whether the client adds the error of its last update to the next
    )

    def __str__(self) -> str:
        """Return the canonical text."""
        return (FEEDBACK if self.feedback else "") + self.text

    @property
    def text(self) -> str:
        """Return the canonical text without error feedback: what a payload's header says."""
        return "+".join(map(str, self.links))

    def codec(self) -> Codec:
        """Return the codec, without error feedback, which is not its business; raises ConfigError if one cannot be imported."""
        if self.links[0].role == PREDICT:
            return _wrap(_find(self.links[0]), Chain(self.links[1:]).codec())
        made = {link.role: link for link in self.links}
        if WHOLE in made:
            whole: Codec = _find(made[WHOLE])(*made[WHOLE].numbers)
            return whole
        codec: Codec = _find(made[QUANTISE])()
        select, pack = made.get(SELECT), made.get(PACK)
        if select is None:
            return codec if pack is None else _wrap(_find(pack), codec)
        if pack is None:
            return _wrap(_find(select), *select.numbers, codec)
        return _wrap(
            _find(select),
            *select.numbers,
            codec,
            True if pack.name == "deflate" else _find(pack)(),
        )


def parse(text: str, error: type[FedlearnError] = ConfigError) -> Chain:
    """Return the chain that a text means; raises ``error``, one line that names the stage, the text and the fix."""

    def refuse(message: str) -> NoReturn:
        raise error(f"codec '{text[:LONGEST]}': {message}")

    if len(text) > LONGEST:
        refuse(f"{len(text)} characters; at most {LONGEST} are read")
    if not text.isascii() or not text.isprintable():
        refuse("only plain ASCII characters are read")
    feedback, rest = split(text)
    chain = Chain(
        tuple(_link(token.strip(), refuse) for token in rest.split("+")), feedback
    )
    _check_order(
        chain.links[1:] if chain.links[0].role == PREDICT else chain.links, refuse
    )
    if feedback and (
        noisy := [link.name for link in chain.links if STAGES[link.name].unbiased_noise]
    ):
        refuse(
            f"'{noisy[0]}' is unbiased, with an error that error feedback would only let grow; leave out '{FEEDBACK}'"
        )
    return chain


def split(text: str) -> tuple[bool, str]:
    """Return whether a codec's text asks for error feedback, and the text of the codec itself."""
    squeezed = re.sub(" *\\+ *", "+", text.strip())
    return squeezed.startswith(FEEDBACK), squeezed.removeprefix(FEEDBACK)


def find(text: str, error: type[FedlearnError] = ConfigError) -> Codec:
    """Return the codec of a text, without its error feedback; raises ``error`` as `parse` does."""
    chain = parse(text, error)
    try:
        return chain.codec()
    except ConfigError as problem:
        raise error(f"codec '{text}': {problem}") from None


def _link(token: str, refuse: Callable[[str], NoReturn]) -> Link:
    match = _TOKEN.fullmatch(token)
    if not match:
        refuse(
            f"'{token}' is no stage; write a name, or a name and numbers such as topk(0.01)"
        )
    name, inside = match[1], match[2]
    if name not in STAGES:
        refuse(
            f"unknown stage '{name}'.{nearest(name, STAGES)} Known: {', '.join(STAGES)}"
        )
    takes, given = (
        STAGES[name].takes,
        [] if inside is None else [part.strip() for part in inside.split(",")],
    )
    least = sum(1 for argument in takes if argument.default is None)
    if not least <= len(given) <= len(takes):
        wanted = (
            f"{name}({', '.join(a.name for a in takes)})"
            if takes
            else f"'{name}' without brackets"
        )
        refuse(f"'{token}' has {len(given)} numbers; write {wanted}")
    numbers = [
        _number(token, argument, part, refuse)
        for argument, part in zip(takes, given, strict=False)
    ]
    numbers += [
        argument.default
        for argument in takes[len(given) :]
        if argument.default is not None
    ]
    return Link(name, tuple(map(float, numbers)))


def _number(
    token: str, argument: Argument, text: str, refuse: Callable[[str], NoReturn]
) -> float:
    if not _NUMBER.fullmatch(text):
        refuse(f"'{text}' in '{token}' is no number; it is the {argument}")
    value = float(text)
    if not argument.low <= value <= argument.high or (
        argument.above and value == argument.low
    ):
        refuse(f"{text} in '{token}' is out of range; it is the {argument}")
    return value


def _check_order(links: tuple[Link, ...], refuse: Callable[[str], NoReturn]) -> None:
    """Refuse stages that do not go together."""
    roles = [link.role for link in links]
    if PREDICT in roles:
        refuse("'pred' stands once, before all other stages")
    if not links:
        refuse(
            "'pred' needs a codec for what it does not predict; write pred+cvq(0.5), for example"
        )
    if WHOLE in roles:
        if len(roles) > 1:
            refuse(
                f"'{links[roles.index(WHOLE)].name}' takes the whole vector; write it alone, or after 'pred'"
            )
        return
    order = [SELECT, QUANTISE, PACK]
    for before, after in pairwise(links):
        if order.index(after.role) <= order.index(before.role):
            refuse(
                f"'{after.name}' cannot follow '{before.name}'; the order is select + quantise + pack"
            )
    if QUANTISE not in roles:
        known = ", ".join(
            name for name, stage in STAGES.items() if stage.role == QUANTISE
        )
        refuse(
            f"no stage says how each value is written; add one of {known} after '{links[0]}'"
        )
    first, last = links[0].name, links[-1].name
    if "tern" in (link.name for link in links) and roles[0] != SELECT:
        refuse(
            "'tern' writes the values that a select leaves; put topk(0.01) before it, or use 'sign'"
        )
    if first == "randk" and (
        biased := [link.name for link in links if link.name in ("sign", "tern", "q4c")]
    ):
        refuse(
            f"'randk' enlarges what it sends to be unbiased, which '{biased[0]}' would spoil; use raw32, f16, q8 or q4 after it"
        )
    if roles[-1] == PACK and (last == "deflate") == (first == "topk"):
        refuse(
            f"'{last}' {'is for values without places; use gapz' if last == 'deflate' else 'packs places, which only topk sends'}"
        )


def _find(link: Link) -> Callable[..., Any]:
    found: Callable[..., Any] = import_path("codec", STAGES[link.name].path)
    return found


def _wrap(make: Callable[..., Any], *parts: object) -> Codec:
    made: Codec = make(*parts)
    return made
