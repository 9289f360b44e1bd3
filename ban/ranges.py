"""Types of values with their ranges, for settings and for the arguments of constructors that settings name.

A constructor may use plain types too: `int`, `float`, `bool`, `str` and `Literal` are checked, and `float` is finite.
An argument without an annotation is not checked.
"""

import re
from typing import Annotated

from annotated_types import Ge, Gt, Interval
from pydantic import AfterValidator, AllowInfNan, Strict
from pydantic_core import PydanticCustomError

LARGEST = 2**31 - 1
"""The largest size or count: what torch and SLURM take for an index."""


def one_line(text: str) -> str:
    """The text as it is.

    Raises:
        PydanticCustomError: it is empty, or would break a line of a table or a log.
    """
    if not text.strip():
        raise PydanticCustomError("empty_text", "must not be empty")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text):
        raise PydanticCustomError("unprintable", "must be one line of printable characters")
    return text


Text = Annotated[str, Strict(), AfterValidator(one_line)]
Flag = Annotated[bool, Strict()]

Integer = Annotated[int, Strict(), Interval(ge=-(2**63), lt=2**63)]
NonNegative = Annotated[int, Strict(), Interval(ge=0, le=LARGEST)]
Positive = Annotated[int, Strict(), Interval(ge=1, le=LARGEST)]
UpTo1000 = Annotated[int, Strict(), Interval(ge=1, le=1000)]
"""A number of parts that are made one by one, such as layers or networks."""
ZeroTo1000 = Annotated[int, Strict(), Interval(ge=0, le=1000)]

Number = Annotated[float, Strict(), AllowInfNan(False)]
NonNegativeNumber = Annotated[Number, Ge(0)]
PositiveNumber = Annotated[Number, Gt(0)]
PositiveOrInfinite = Annotated[float, Strict(), AllowInfNan(True), Gt(0)]
Seconds = Annotated[Number, Interval(ge=0, le=1e9)]
"""The largest, 32 years, is what operating systems accept as a time to wait."""
Fraction = Annotated[Number, Interval(ge=0, lt=1)]
Share = Annotated[Number, Interval(gt=0, le=1)]
Probability = Annotated[Number, Interval(ge=0, le=1)]
