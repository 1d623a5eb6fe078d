"""Runs one function in a process of its own, with a pipe to it."""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Run `target(pipe, *arguments)` until the block ends; gives this end of the pipe.

    At the end `None` is sent, upon which the function returns.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    try:
        yield here
    finally:
        here.send(None)
        process.join(5)
        process.kill()
