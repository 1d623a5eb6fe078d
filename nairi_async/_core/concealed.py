"""A setting that may hold a secret, handed on in place of its value."""

from __future__ import annotations

from typing import Any, Final, NoReturn


class Concealed:
    """A value that no repr, log or pickle shows, nor a report of a frame's local variables.

    A function that takes a secret wraps it at once, and clears the name of its argument. What may raise afterwards has
    the wrapper in its local variables. The value is handed only to functions that return what is wrong with it.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value: Final[Any] = value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
