"""The language of codecs: stages joined by ``+``, such as ``topk(0.01)+tern``.

A chain is ``[ef+] [pred+] [select+] quantise [+pack]``: what is predicted, which values
are sent, how each is written, and how the result is made smaller. Some codecs take the
whole vector, in place of the last three. `stages` has a table of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from fedlearn.codec.protocol import FEEDBACK, Codec
from fedlearn.codec.stages import (
    PACK,
    PREDICT,
    QUANTISE,
    SELECT,
    STAGES,
    WHOLE,
    Argument,
    Stage,
)
from fedlearn.errors import ConfigError, FedlearnError
from fedlearn.names import import_path, nearest

# Characters of a codec's text; payloads carry it, and their senders may be hostile.
LONGEST = 80

# A name, and what its brackets hold.
_TOKEN = re.compile(r"([a-z][a-z0-9]*)(?:\(([^()]*)\))?", re.ASCII)

# Bounded repetitions, because hostile texts are matched too.
_NUMBER = re.compile(r"(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e-?\d{1,2})?", re.ASCII)

# Quantisers whose error has a mean; after `randk` they would make its estimate biased.
_BIASED = ("sign", "tern", "q4c")


@dataclass(frozen=True)
class ChainStage:
    """A stage as it stands in a chain: its name and its numbers."""

    name: str
    numbers: tuple[float, ...] = ()

    @property
    def definition(self) -> Stage:
        """Return its entry of `STAGES`."""
        return STAGES[self.name]

    @property
    def role(self) -> str:
        """Return its place in a chain."""
        return self.definition.role

    def __str__(self) -> str:
        """Return the shortest text that gives the same numbers.

        Trailing defaults are left out, so that a stage can gain an argument with a
        default later, and every text of today stays as it is.
        """
        numbers = list(self.numbers)
        for argument in reversed(self.definition.takes):
            if argument.default is None or numbers[-1] != argument.default:
                break
            numbers.pop()
        if not numbers:
            return self.name
        texts = [repr(number).removesuffix(".0") for number in numbers]
        return f"{self.name}({','.join(texts)})"

    def factory(self) -> Callable[..., Codec]:
        """Return what makes the stage's codec; raises ConfigError if it has no import."""
        factory: Callable[..., Codec] = import_path("codec", self.definition.path)
        return factory

    def make(self, *parts: object) -> Codec:
        """Return the stage's codec, made of its numbers and of other stages' codecs."""
        factory = self.factory()
        return factory(*self.numbers, *parts)


@dataclass(frozen=True)
class Chain:
    """A parsed text; ``str`` gives its canonical form, which parses to the same chain."""

    stages: tuple[ChainStage, ...]
    # Whether the client adds the error of its last update to the next one.
    feedback: bool = False

    def __str__(self) -> str:
        """Return the canonical text."""
        if self.feedback:
            return FEEDBACK + self.text
        return self.text

    @property
    def text(self) -> str:
        """Return the canonical text as a payload's header has it: no error feedback."""
        return "+".join(map(str, self.stages))

    def codec(self) -> Codec:
        """Return the codec, without error feedback, which the client does by itself.

        Raises ConfigError for a stage that cannot be imported.
        """
        first = self.stages[0]
        if first.role == PREDICT:
            after = Chain(self.stages[1:])
            return first.make(after.codec())

        # `parse` saw to it that each role stands at most once.
        by_role = {stage.role: stage for stage in self.stages}
        if WHOLE in by_role:
            return by_role[WHOLE].make()

        quantiser = by_role[QUANTISE].make()
        select = by_role.get(SELECT)
        pack = by_role.get(PACK)

        if select is None:
            return quantiser if pack is None else pack.make(quantiser)
        if pack is None:
            return select.make(quantiser)
        # After `randk` there are no places to pack: the select deflates by a switch.
        if pack.name == "deflate":
            return select.make(quantiser, True)
        return select.make(quantiser, pack.make())


def parse(text: str, error: type[FedlearnError] = ConfigError) -> Chain:
    """Return the chain that a text means.

    Raises ``error``, one line that names the stage, the text and the fix.
    """
    try:
        return _parse(text)
    except ConfigError as problem:
        raise error(f"codec '{text[:LONGEST]}': {problem}") from None


def split(text: str) -> tuple[bool, str]:
    """Return whether a codec's text asks for error feedback, and the codec's own text."""
    squeezed = re.sub(r" *\+ *", "+", text.strip())
    feedback = squeezed.startswith(FEEDBACK)
    return feedback, squeezed.removeprefix(FEEDBACK)


def find(text: str, error: type[FedlearnError] = ConfigError) -> Codec:
    """Return the codec of a text, without its error feedback.

    Raises ``error`` as `parse` does, and for a stage that cannot be imported.
    """
    chain = parse(text, error)
    try:
        return chain.codec()
    except ConfigError as problem:
        raise error(f"codec '{text}': {problem}") from None


def _parse(text: str) -> Chain:
    """Return the chain that a text means; raises ConfigError, without the text."""
    # Before anything else, because later messages quote parts of the text.
    if len(text) > LONGEST:
        raise ConfigError(f"{len(text)} characters; at most {LONGEST} are read")
    if not text.isascii() or not text.isprintable():
        raise ConfigError("only plain ASCII characters are read")

    feedback, codec_text = split(text)
    tokens = [token.strip() for token in codec_text.split("+")]
    chain = Chain(tuple(map(_parse_stage, tokens)), feedback)

    # What follows a prediction must be a codec by itself.
    if chain.stages[0].role == PREDICT:
        _check_order(chain.stages[1:])
    else:
        _check_order(chain.stages)
    if feedback:
        _check_feedback(chain)
    return chain


def _parse_stage(token: str) -> ChainStage:
    """Return the stage that a token means; raises ConfigError."""
    parts = _TOKEN.fullmatch(token)
    if not parts:
        raise ConfigError(
            f"'{token}' is no stage; "
            "write a name, or a name and numbers such as topk(0.01)"
        )

    name, inside = parts.groups()
    if name not in STAGES:
        hint = nearest(name, STAGES)
        raise ConfigError(f"unknown stage '{name}'.{hint} Known: {', '.join(STAGES)}")

    # Without brackets there are no numbers; with empty ones there is an empty one.
    arguments = STAGES[name].takes
    texts = []
    if inside is not None:
        texts = [text.strip() for text in inside.split(",")]
    required = [argument for argument in arguments if argument.default is None]
    if not len(required) <= len(texts) <= len(arguments):
        raise ConfigError(f"'{token}' has {len(texts)} numbers; write {_usage(name)}")

    # Fewer texts than arguments: the last ones have defaults.
    numbers = []
    for argument, text in zip(arguments, texts, strict=False):
        numbers.append(_parse_number(token, argument, text))
    for argument in arguments[len(texts) :]:
        if argument.default is not None:
            numbers.append(float(argument.default))
    return ChainStage(name, tuple(numbers))


def _usage(name: str) -> str:
    """Return how a stage is written, for error messages."""
    arguments = STAGES[name].takes
    if not arguments:
        return f"'{name}' without brackets"
    names = ", ".join(argument.name for argument in arguments)
    return f"{name}({names})"


def _parse_number(token: str, argument: Argument, text: str) -> float:
    """Return the number that a text means; raises ConfigError."""
    if not _NUMBER.fullmatch(text):
        raise ConfigError(f"'{text}' in '{token}' is no number; it is the {argument}")
    value = float(text)
    in_range = argument.low <= value <= argument.high
    if not in_range or (argument.above and value == argument.low):
        raise ConfigError(f"{text} in '{token}' is out of range; it is the {argument}")
    return value


def _check_order(stages: tuple[ChainStage, ...]) -> None:
    """Raise ConfigError for stages, after the prediction, in an order that means nothing."""
    roles = [stage.role for stage in stages]
    if PREDICT in roles:
        raise ConfigError("'pred' stands once, before all other stages")
    if not stages:
        raise ConfigError(
            "'pred' needs a codec for what it does not predict; "
            "write pred+cvq(0.5), for example"
        )

    if WHOLE in roles:
        if len(roles) > 1:
            name = stages[roles.index(WHOLE)].name
            raise ConfigError(
                f"'{name}' takes the whole vector; write it alone, or after 'pred'"
            )
        return

    # Each role once, in this order, and a quantiser among them.
    order = [SELECT, QUANTISE, PACK]
    for before, after in pairwise(stages):
        if order.index(after.role) <= order.index(before.role):
            raise ConfigError(
                f"'{after.name}' cannot follow '{before.name}'; "
                "the order is select + quantise + pack"
            )
    if QUANTISE not in roles:
        names = [name for name, stage in STAGES.items() if stage.role == QUANTISE]
        raise ConfigError(
            "no stage says how each value is written; "
            f"add one of {', '.join(names)} after '{stages[0]}'"
        )
    _check_partners(stages)


def _check_partners(stages: tuple[ChainStage, ...]) -> None:
    """Raise ConfigError for stages in order, of which one needs or spoils another."""
    names = [stage.name for stage in stages]
    if "tern" in names and stages[0].role != SELECT:
        raise ConfigError(
            "'tern' writes the values that a select leaves; "
            "put topk(0.01) before it, or use 'sign'"
        )

    biased = [name for name in names if name in _BIASED]
    if names[0] == "randk" and biased:
        raise ConfigError(
            f"'randk' enlarges what it sends to be unbiased, which '{biased[0]}' "
            "would spoil; use raw32, f16, q8 or q4 after it"
        )

    # `deflate` packs values alone; the other packs write the places that topk sends.
    if stages[-1].role == PACK and names[-1] == "deflate" and names[0] == "topk":
        raise ConfigError("'deflate' is for values without places; use gapz")
    if stages[-1].role == PACK and names[-1] != "deflate" and names[0] != "topk":
        raise ConfigError(f"'{names[-1]}' packs places, which only topk sends")


def _check_feedback(chain: Chain) -> None:
    """Raise ConfigError for a stage whose error feedback would only let grow."""
    for stage in chain.stages:
        if stage.definition.unbiased_noise:
            raise ConfigError(
                f"'{stage.name}' is unbiased, with an error that error feedback "
                f"would only let grow; leave out '{FEEDBACK}'"
            )
