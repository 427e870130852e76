"""The same call for several sites at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["call_within", "collect", "for_each"]

T = TypeVar("T")
U = TypeVar("U")

_WORKERS = 16


def for_each(function: Callable[[U], T], items: Sequence[U], at_once: int = _WORKERS) -> list[T]:
    """``function`` of all items, ``at_once`` of them in parallel; waits for all, then raises the first error
    if there was one."""
    with ThreadPoolExecutor(max_workers=max(1, min(at_once, len(items)))) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]


def collect(function: Callable[[U], T], items: Sequence[U], timeout: float) -> dict[U, T | Exception]:
    """``function`` of all items, in parallel: for each its result, or the exception that it raised.

    Returns after ``timeout`` seconds at the latest, with a TimeoutError for each item that is not done; such
    a call is not interrupted, it must have a bound of its own.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, min(_WORKERS, len(items))))
    try:
        futures = {item: pool.submit(function, item) for item in items}
        wait(futures.values(), timeout=timeout)
        results: dict[U, T | Exception] = {}
        for item, future in futures.items():
            if not future.done():
                results[item] = TimeoutError(f"no answer within {timeout:g} s")
            else:
                error = future.exception()
                results[item] = error if isinstance(error, Exception) else future.result()
        return results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def call_within(timeout: float, function: Callable[[], T]) -> T | Exception:
    """The result of ``function``, or the exception that it raised; takes at most ``timeout`` seconds."""
    return collect(lambda _: function(), [0], timeout)[0]
