"""The wheels that are handed out: those of this server's own platform, and those that somebody has put into a directory for others.

Made at the first request, in a thread, and kept; the directory is looked at each time. Called by `web.delivery.routes`.
"""

import asyncio
import logging
from pathlib import Path

from web.delivery.platforms import platforms
from web.delivery.wheels import Tag, Wheel, is_wheel, pack_all, tag_of, tags_here

log = logging.getLogger(__name__)

MOST_WHEELS = 1000
"""Of the directory; beyond that it is the wrong one."""


class Shelf:
    """`directory`: of wheels for other platforms, or None."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._own: tuple[Wheel, ...] | None = None
        self._tags: tuple[Tag, ...] | None = None
        self._others: dict[tuple[str, int, int], Wheel] = {}
        self._making = asyncio.Lock()

    async def own(self) -> tuple[Wheel, ...]:
        """Raises NotPackable."""
        async with self._making:
            if self._own is None:
                self._own = await asyncio.to_thread(pack_all)
                log.info("agent packed", extra={"wheels": len(self._own)})
            return self._own

    def platforms(self) -> list[str]:
        """What the wheels run on, in words, without making them. Raises NotPackable."""
        if self._tags is None:
            self._tags = tags_here()
        return platforms([*self._tags, *(tag_of(path.name) for path in self._paths())])

    async def all(self) -> tuple[Wheel, ...]:
        """Its own first; of two with one name, its own. Raises NotPackable."""
        own = await self.own()
        names = {wheel.name for wheel in own}
        return own + tuple(wheel for wheel in await asyncio.to_thread(self._look) if wheel.name not in names)

    def _look(self) -> list[Wheel]:
        found = {}
        for path in self._paths():
            try:
                stat = path.stat()
                key = (path.name, stat.st_mtime_ns, stat.st_size)
                found[key] = self._others.get(key) or Wheel(path.name, path.read_bytes())
            except OSError as error:
                log.warning("wheel not handed out", extra={"path": str(path), "reason": str(error)})
        self._others = found
        return list(found.values())

    def _paths(self) -> list[Path]:
        if self._directory is None or not self._directory.is_dir():
            return []
        return [path for path in sorted(self._directory.glob("*.whl"))[:MOST_WHEELS] if is_wheel(path.name)]
