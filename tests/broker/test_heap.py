"""Memory that was freed, as the system sees it; and what stays, as the garbage collector does."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from broker import heap

BLOCKS, SIZE, KEPT_OF = 100_000, 1000, 50


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(heap._malloc_trim() is None, reason="the C library has no malloc_trim")
def test_holes_between_blocks_in_use_go_back_to_the_system() -> None:
    """Of 100 MB in small blocks every fiftieth stays; most of the pages between them are given back."""
    blocks = [bytes(SIZE) for _ in range(BLOCKS)]
    kept = blocks[::KEPT_OF]
    del blocks
    before = resident_bytes()
    assert heap.trim()
    assert before - resident_bytes() > BLOCKS * SIZE / 2
    assert len(kept) == BLOCKS / KEPT_OF


async def test_what_there_is_at_the_start_is_left_alone() -> None:
    """No later collection walks it; what comes later is collected as ever."""
    gc.unfreeze()
    heap.keep(asyncio.get_running_loop())
    try:
        assert gc.get_freeze_count() > 10_000
        ring: list[object] = []
        ring.append(ring)
        del ring
        assert gc.collect() > 0
    finally:
        gc.unfreeze()
