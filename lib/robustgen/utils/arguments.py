"""Arguments and settings: their types, and errors in one sentence that names the key."""

import difflib
import functools
import inspect
import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass

from .paths import shown

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Family = list | dict[str, dict]
Norm = Literal["linf", "l2"]
settings = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
# not strict: strictly, it could not be written as a mapping
part = functools.partial(dataclass, frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))


def within(settings, whole, *keys):
    """Refuse parts that are larger than the whole."""
    for key in keys:
        if getattr(settings, key) > getattr(settings, whole):
            raise ValueError(f"{key!r} is {getattr(settings, key)}, of {getattr(settings, whole)} {whole!r}; lower it, "
                             f"or raise {whole!r}")


def ordered(settings, *rising, falling=()):
    """Refuse lists of settings that do not rise, or fall, strictly."""
    for key in (*rising, *falling):
        values = getattr(settings, key)
        if values != sorted(set(values), reverse=key in falling):
            raise ValueError(f"{key!r} is {values}: it should {'fall' if key in falling else 'rise'}")


def known(kind, name, names, where=""):
    """Return `name` if it is one of `names`; else raise a ValueError that offers the nearest."""
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), [str(n) for n in names], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise ValueError(f"{where}{kind} {name!r} does not exist{hint} (there are: {', '.join(map(str, names))})")


def checked_call(make, given, source):
    """Call `make(**given)`; what is wrong with the arguments becomes one sentence that begins with `source`."""
    try:
        return make(**given)
    except ValidationError as error:
        raise ValueError(f"{shown(source)}: {sentence(error, make.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{shown(source)}: {error}") from None


def arguments(function):
    """Decorator: check a function's annotated arguments (type and range) before it runs.

    Raises ValueError in one sentence that names the function and the argument.
    """
    call = validate_call(function, config=ConfigDict(strict=True, arbitrary_types_allowed=True))

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return call(*args, **kwargs)
        except ValidationError as error:
            name = function.__qualname__.removesuffix(".__init__")
            raise ValueError(f"{name}: {sentence(error, inspect.signature(function).parameters)}") from None
    return wrapper


def sentence(error, names):
    """The first complaint of a pydantic error as a sentence; `names` are the names that would be right."""
    # a misspelt name explains a missing one
    problem = max(error.errors(), key=lambda e: e["type"] == "unexpected_keyword_argument")
    # without pydantic's names of types
    key = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"\w+", str(part)))
    if problem["type"] == "unexpected_keyword_argument":
        try:
            known("parameter", key, [name for name in names if name not in ("self", "model")])
        except ValueError as unknown:
            return str(unknown)
    if not key:   # settings that do not fit together
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"].startswith("missing"):
        return f"parameter {key!r} is missing; add it"
    message = problem["msg"].replace("Input should be", "it should be")
    return f"{key!r} is {problem['input']!r}: {message[0].lower()}{message[1:]}"
