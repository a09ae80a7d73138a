"""Arguments of public functions, checked before anything runs: what is wrong is one sentence.

    @validated(eps=positive, steps=positive_integer)
    def pgd(model, x, y, *, norm: Literal["linf", "l2"], eps: float, steps: int): ...

A check is called as check(name, value) and raises ValueError. Of the annotations, `bool` and `Literal[...]` are checks,
too. NumPy's numbers are taken as Python's, with which tensors keep their type.
"""

import difflib
import functools
import inspect
import math
import numbers
import textwrap
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

Norm = Literal["linf", "l2"]
F = TypeVar("F", bound=Callable[..., Any])


def validated(**checks: Callable[[str, Any], None]) -> Callable[[F], F]:
    """Decorator: check a function's arguments, and offer the nearest name for a misspelt one. What it does inside does
    not depend on the caller's grad mode.

    Raises ValueError that names the function and the argument.
    """
    def decorate(function):
        signature = inspect.signature(function)
        parameters = signature.parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        rules = {name: rule for name, p in parameters.items() if (rule := _annotated(p.annotation))} | checks

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            try:
                if not takes_any:
                    for name in kwargs:
                        known("parameter", name, [p for p in parameters if p not in ("self", "model")]
                              if name not in parameters else parameters)
                args, kwargs = [_plain(v) for v in args], {name: _plain(v) for name, v in kwargs.items()}
                given = _bound(signature, args, kwargs)
                for name, check in rules.items():
                    if name in given:
                        check(name, given[name])
                if {"norm", "eps"} <= parameters.keys():
                    _radius(given.get("norm", parameters["norm"].default), given.get("eps"))
            except ValueError as problem:
                raise ValueError(f"{function.__qualname__.removesuffix('.__init__')}: {problem}") from None
            import torch  # not before it is needed: the command line reads this module, too

            with torch.enable_grad():
                return function(*args, **kwargs)
        return wrapper
    return decorate


def _bound(signature, args, kwargs):
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        missing = str(error).partition("missing a required argument: ")[2]
        raise ValueError(f"parameter {missing} is missing; add it" if missing
                         else f"{error}; give those behind the images and labels by name") from None


def _plain(value):
    """A NumPy number as Python's."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _radius(norm, eps):
    """Refuse a radius in units of 0-255."""
    if norm == "linf" and isinstance(eps, numbers.Real) and eps > 1:
        raise ValueError(f"'eps' is {eps!r}: in the max norm it should be at most 1, as pixels lie in [0, 1]; divide "
                         "by 255")


def _annotated(annotation):
    """The check that an annotation stands for, if any."""
    if annotation is bool:
        return one_of(True, False)
    return one_of(*get_args(annotation)) if get_origin(annotation) is Literal else None


def one_of(*values):
    """One of these values, of their very type."""
    *most, last = map(repr, values)
    words = f"{', '.join(most)} or {last}" if most else last

    def check(name, value):
        if not any(value == allowed and isinstance(value, type(allowed)) for allowed in values):
            _refuse(name, value, words)
    return check


def optional(check):
    """None, or what `check` allows."""
    return lambda name, value: None if value is None else check(name, value)


def list_of(check):
    """A list or tuple, not empty, of what `check` allows."""
    def whole(name, value):
        if not isinstance(value, list | tuple) or not len(value):
            _refuse(name, value, "a list with at least one entry")
        for position, entry in enumerate(value):
            check(f"{name}.{position}", entry)
    return whole


def positive_integer(name, value):
    """A whole number from 1 up."""
    _whole(name, value, 1)


def non_negative_integer(name, value):
    """A whole number from 0 up."""
    _whole(name, value, 0)


def positive(name, value):
    """A finite number above 0."""
    _real(name, value)
    if value <= 0:
        _refuse(name, value, "greater than 0")


def non_negative(name, value):
    """A finite number from 0 up."""
    _real(name, value)
    if value < 0:
        _refuse(name, value, "greater than or equal to 0")


def fraction(name, value):
    """A number from 0 up, below 1."""
    non_negative(name, value)
    if value >= 1:
        _refuse(name, value, "less than 1")


def _whole(name, value, least):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        _refuse(name, value, "a valid integer")
    if value < least:
        _refuse(name, value, f"greater than or equal to {least}")


def _real(name, value):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        _refuse(name, value, "a valid number")
    if not math.isfinite(value):
        _refuse(name, value, "a finite number")


def _refuse(name, value, should):
    raise ValueError(f"{name!r} is {shortly(value)}: it should be {should}")


def shortly(value):
    """A value as a message shows it: on one line, and not for long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:76]} ..."


def known(kind, name, names, where=""):
    """Return `name` if it is one of `names`; else raise a ValueError that offers the nearest."""
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), [str(n) for n in names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    there = textwrap.shorten(", ".join(map(str, names)), 180, placeholder=" ...")
    raise ValueError(f"{where}{kind} {shortly(name)} does not exist{hint} (there are: {there})")


def call_with(make, given, source):
    """Call `make(**given)`; a ValueError of its arguments begins with `source`, where they come from."""
    try:
        return make(**given)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
