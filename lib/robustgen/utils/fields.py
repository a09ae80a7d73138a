"""Settings that come from YAML: their types, and errors in one sentence that names the file and the key."""

import functools
import re
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from .arguments import known, shortly
from .paths import shown

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Family = list | dict[str, dict]
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


def checked_settings(kind, given, source):
    """The dataclass `kind` of settings given as a dict; what is wrong with them is one sentence.

    Raises ValueError that begins with `source`, a file or what else they come from.
    """
    if not isinstance(given, dict):
        raise ValueError(f"{shown(source)} should hold settings, a line `name: value` each, and is {shortly(given)}")
    try:
        return kind(**given)
    except ValidationError as error:
        raise ValueError(f"{shown(source)}: {sentence(error, kind.__dataclass_fields__)}") from None
    except ValueError as error:
        raise ValueError(f"{shown(source)}: {error}") from None


def sentence(error, names):
    """The first complaint of a pydantic error as a sentence; `names` are the names that would be right."""
    # a misspelt name explains a missing one
    problem = max(error.errors(), key=lambda e: e["type"] == "unexpected_keyword_argument")
    # without pydantic's names of types
    key = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"\w+", str(part)))
    if problem["type"] == "unexpected_keyword_argument":
        try:
            known("parameter", key, names)
        except ValueError as unknown:
            return str(unknown)
    if not key:   # settings that do not fit together
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"].startswith("missing"):
        return f"parameter {key!r} is missing; add it"
    message = problem["msg"].replace("Input should be", "it should be")
    return f"{key!r} is {shortly(problem['input'])}: {message[0].lower()}{message[1:]}"
