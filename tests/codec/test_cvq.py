"""cvq: every contact brings a copy nearer, at any rate and eta, in every block."""

import numpy as np
import pytest

from fedlearn.codec import Context
from fedlearn.codec.cvq import MOST, Cvq
from fedlearn.codec.groups import GRADES
from fedlearn.codec.uvq import Uvq

RANDOM = np.random.default_rng(1)
STRENGTH = np.outer(
    np.exp(RANDOM.normal(size=128)), np.exp(RANDOM.normal(size=96))
).ravel()
MODEL = (RANDOM.normal(size=128 * 96) * STRENGTH).astype(np.float32)
SHAPES = ((128, 96),)


def missing(codec, contacts, moved=None):
    """What a copy that starts at 0 lacks of a model that stands still.

    After each contact, as a share of the model's energy.
    """
    copy, shares = np.zeros_like(MODEL), []
    for contact in range(contacts):
        context = Context(SHAPES, copy if moved is None else moved)
        body = codec.encode(MODEL - copy, contact, context)
        copy = copy + codec.decode(body, contact, context)
        shares.append(
            float(
                np.square(MODEL - copy, dtype=np.float64).sum()
                / np.square(MODEL, dtype=np.float64).sum()
            )
        )
    return shares


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_what_is_missing_shrinks_at_every_contact(rate, eta):
    shares = missing(Cvq(rate, eta), 8)
    assert all(
        later < 0.99 * earlier
        for earlier, later in zip([1.0, *shares], shares, strict=False)
    )


def test_an_unbiased_estimate_would_not_shrink():
    """Why the downlink has a codec of its own."""
    assert missing(Uvq(0.1), 8)[-1] > 10 > 1 > missing(Cvq(0.1, 1.0), 8)[-1]


def test_least_squares_is_the_best_single_contact_and_eta_moves_towards_the_exact_projection():
    context = Context(SHAPES, MODEL)
    energy = float(np.square(MODEL, dtype=np.float64).sum())
    errors, shares = [], []
    for eta in (0.0, 0.5, 1.0):
        got = (
            Cvq(0.5, eta)
            .decode(Cvq(0.5, eta).encode(MODEL, 3, context), 3, context)
            .astype(np.float64)
        )
        errors.append(np.square(got - MODEL).sum() / energy)
        shares.append(got @ MODEL / energy)
    assert errors == sorted(errors) and shares == sorted(shares)
    assert errors[0] == pytest.approx(
        1 - shares[0], abs=0.01
    )  # least squares: what is missing is at right angles


def test_every_grade_contracts():
    captures = np.array([grade.capture for grade in GRADES])
    for eta in (0.0, 0.5, 1.0):
        gains = Cvq(0.5, eta).gain(captures[1:])
        left = 1 - captures[1:] * gains * (2 - gains)
        assert (gains <= MOST).all() and (left < 1).all()
        assert (1 - left >= 0.84 * captures[1:] - 1e-12).all()
