"""Arguments of public functions: what passes, and the sentence that refuses what does not."""

import inspect
from typing import Literal

import numpy as np
import pytest

from robustgen.utils.arguments import (
    fraction,
    list_of,
    non_negative,
    non_negative_integer,
    optional,
    positive,
    positive_integer,
    validated,
)


@validated(eps=positive, steps=positive_integer, seed=non_negative_integer, weight=non_negative, share=fraction,
           sizes=list_of(positive), radius=optional(positive))
def attack(model, *, eps: float, steps: int = 1, seed: int = 0, weight: float = 0.0, share: float = 0.0, sizes=(1,),
           radius: float | None = None, norm: Literal["linf", "l2"] = "l2", each: bool = False):
    """Return what came."""
    return eps, steps, sizes, radius, norm


@pytest.mark.parametrize("given, sentence", [
    ({"eps": 0}, "attack: 'eps' is 0: it should be greater than 0"),
    ({"eps": "1"}, "attack: 'eps' is '1': it should be a valid number"),
    ({"eps": True}, "attack: 'eps' is True: it should be a valid number"),
    ({"eps": float("nan")}, "attack: 'eps' is nan: it should be a finite number"),
    ({"eps": float("inf")}, "attack: 'eps' is inf: it should be a finite number"),
    ({"eps": 1, "steps": 0}, "attack: 'steps' is 0: it should be greater than or equal to 1"),
    ({"eps": 1, "steps": 1.0}, "attack: 'steps' is 1.0: it should be a valid integer"),
    ({"eps": 1, "steps": True}, "attack: 'steps' is True: it should be a valid integer"),
    ({"eps": 1, "seed": -1}, "attack: 'seed' is -1: it should be greater than or equal to 0"),
    ({"eps": 1, "weight": -0.1}, "attack: 'weight' is -0.1: it should be greater than or equal to 0"),
    ({"eps": 1, "share": 1}, "attack: 'share' is 1: it should be less than 1"),
    ({"eps": 1, "sizes": []}, "attack: 'sizes' is []: it should be a list with at least one entry"),
    ({"eps": 1, "sizes": 2.0}, "attack: 'sizes' is 2.0: it should be a list with at least one entry"),
    ({"eps": 1, "sizes": [1, -2]}, "attack: 'sizes.1' is -2: it should be greater than 0"),
    ({"eps": 1, "radius": 0}, "attack: 'radius' is 0: it should be greater than 0"),
    ({"eps": 1, "norm": "l1"}, "attack: 'norm' is 'l1': it should be 'linf' or 'l2'"),
    ({"eps": 1, "each": 1}, "attack: 'each' is 1: it should be True or False"),
    ({}, "attack: parameter 'eps' is missing; add it"),
    ({"esp": 1}, "attack: parameter 'esp' does not exist; did you mean 'eps'?"),
])
def test_a_wrong_argument_is_one_sentence(given, sentence):
    with pytest.raises(ValueError) as refusal:
        attack(None, **given)
    assert str(refusal.value).startswith(sentence) and "\n" not in str(refusal.value)


def test_right_arguments_come_as_they_are():
    came = attack(None, eps=1e-9, steps=3, sizes=(1, 2.5), radius=None, norm="linf")
    assert came == (1e-9, 3, (1, 2.5), None, "linf")


def test_numbers_of_numpy_are_numbers():
    assert attack(None, eps=np.float32(0.5), steps=np.int64(2))[:2] == (0.5, 2)


def test_the_signature_is_as_written():
    signature = str(inspect.signature(attack))
    assert "eps: float, steps: int = 1" in signature and attack.__doc__ == "Return what came."


def test_other_errors_pass_unchanged():
    @validated(steps=positive_integer)
    def broken(steps):
        raise ValueError("inside")

    with pytest.raises(ValueError, match="^inside$"):
        broken(2)
