"""A model's outputs, and with functions around it what the model itself took and gave.

Answers are the functions'. What is observed of them, such as drift and disagreement, is of the
model: its inputs are what the package was tested on, and its scores tell how sure it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedlearn.clients.infer.refusal import Refusal
from fedlearn.clients.infer.tensors import Array
from fedlearn.package.function_run import TIME, VALUES, FunctionError


class Outputs(list[Array]):
    """Answers in their order. inputs, scores: what the model took and gave."""

    def __init__(
        self,
        answers: Iterable[Array],
        inputs: Mapping[str, Array],
        scores: Sequence[Array],
    ) -> None:
        """Take the arrays as they are; the first axis of each is that of samples."""
        super().__init__(answers)
        self.inputs = inputs
        self.scores = scores


def part(outputs: Sequence[Array], first: int, last: int) -> list[Array]:
    """Return the outputs of some samples of a batch."""
    answers = [output[first:last] for output in outputs]
    if not isinstance(outputs, Outputs):
        return answers
    inputs = {name: array[first:last] for name, array in outputs.inputs.items()}
    return Outputs(answers, inputs, [array[first:last] for array in outputs.scores])


def model_inputs(
    outputs: Sequence[Array], inputs: Mapping[str, Array]
) -> Mapping[str, Array]:
    """Return what the model took for its outputs. inputs: of the request."""
    return outputs.inputs if isinstance(outputs, Outputs) else inputs


def model_outputs(outputs: Sequence[Array]) -> Sequence[Array]:
    """Return what the model itself gave."""
    return outputs.scores if isinstance(outputs, Outputs) else outputs


def refused(error: FunctionError) -> Refusal:
    """Return the refusal of a request whose function gave no answer."""
    kind = "function_time" if error.reason == TIME else "function"
    # Its limits are the device's matter, and count as errors of the release.
    return Refusal(400 if error.reason == VALUES else 500, kind, str(error))
