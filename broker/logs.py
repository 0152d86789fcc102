"""Structured logs: a JSON object a line on standard error, a constant message and what was given as `extra` as members beside it.

For the entry points of broker, inventory, managers and web; nothing else configures logging. docs/operating.md says which fields there
are, and a test holds every call to it. Secrets are kept out by never being logged, not by a filter here.
"""

import json
import logging
from datetime import UTC, datetime

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """`{"at", "level", "logger", "message", …extra, "error"?}`"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        said = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str, ensure_ascii=False)


def configure(level: str) -> None:
    """Raises ValueError for a level that there is not."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
