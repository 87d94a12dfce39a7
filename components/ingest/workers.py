"""Processes that work side by side, started once and used for everything; a crash of one loses nothing."""

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import TypeVar

PR_SET_PDEATHSIG = 1
LARGEST_FROM_HEAP, KEPT_BYTES = 32 * 2**20, 2**31 - 1
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGE_PAGES_BYTES, PAGE, MADV_HUGEPAGE = 256 * 2**20, 4096, 14

A = TypeVar("A")
B = TypeVar("B")


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Runs a function over many items, in as many processes as there are workers; with one, in this process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool: ProcessPoolExecutor | None = None
        if number < 2:
            keep_memory()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[tuple[int, B | None]]:
        """Yield (index of the item, result) as they come.

        An item whose process dies is tried once more, alone; when it dies again its result is None.
        """
        if self.number < 2 or len(items) < 2:
            for index, item in enumerate(items):
                yield index, function(item)
            return
        died = []
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.number, mp_context=_context(), initializer=_begin, initargs=(os.getpid(),)
            )
        waiting = {self._pool.submit(function, item): index for index, item in enumerate(items)}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                died.append(waiting[future])
        if died:
            self.close()
        for index in sorted(died):
            with ProcessPoolExecutor(1, mp_context=_context(), initializer=_begin, initargs=(os.getpid(),)) as alone:
                try:
                    yield index, alone.submit(function, items[index]).result()
                except BrokenProcessPool:
                    yield index, None


def _context() -> BaseContext:
    """Fork, which is ready in milliseconds, unless another thread could hold a lock at that moment."""
    alone = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if alone else "spawn")


def _begin(parent: int) -> None:
    """First words of a worker: it ends when its parent is killed, and lets go of the lock that it inherited."""
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):  # Linux
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)  # it was killed a moment ago
    gc.freeze()  # what was there before the fork is never garbage here; to look through it would copy it
    keep_memory()


def keep_memory() -> None:
    """Have the C library keep the memory of one series for the next one, and ask for it in large pages.

    It gives large blocks back to the system at once by default, and the system clears every page of a new one, 4 KiB
    at a time: a quarter of the time of a short ingest. A process still never holds more than its largest series took.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # not glibc
        return
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)
    library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = LARGEST_FROM_HEAP - 4096
    blocks = [library.malloc(size) or 0 for _ in range(LARGE_PAGES_BYTES // LARGEST_FROM_HEAP)]  # no memory, addresses
    for block in blocks:
        library.free(block)
    if not all(blocks):
        return  # the process may not have that many
    begin, end = -(-min(blocks) // PAGE) * PAGE, (max(blocks) + size) // PAGE * PAGE
    library.madvise(begin, end - begin, MADV_HUGEPAGE)  # a hint: a system without large pages is slower, that is all
