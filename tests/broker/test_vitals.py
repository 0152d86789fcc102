"""What a process says of itself when asked with SIGUSR1."""

import asyncio
import logging
import os
import signal

import pytest

from broker.vitals import answer_signal
from tests.waiting import patience


async def _idler() -> None:
    await asyncio.Event().wait()


async def test_the_signal_is_answered_with_the_tasks_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """One line, with how many tasks there are, which are the most, threads and memory blocks; the process goes on."""
    caplog.set_level(logging.INFO)
    idle = [asyncio.create_task(_idler()) for _ in range(5)]
    loop = asyncio.get_running_loop()
    answer_signal(loop)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        async with patience(5):
            while not caplog.records:
                await asyncio.sleep(0.01)
        said = vars(caplog.records[0])
        assert said["message"] == "vitals"
        assert said["tasks"] == 6 and said["most"]["_idler"] == 5
        assert said["threads"] >= 1 and said["blocks"] > 10_000
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        for task in idle:
            task.cancel()
