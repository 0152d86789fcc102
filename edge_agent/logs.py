"""The local log: one line an entry, a constant message followed by its fields; for the journal of systemd or any other collector.

As text for people, or, where FLEETWARD_LOG_FORMAT is `json` (`fleetward up` says so), as the services of the server write theirs.
"""

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """`LEVEL logger: message key=value ...`; values as JSON where they are no plain word."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        tail = "".join(f" {key}={_word(value)}" for key, value in fields.items())
        line = f"{record.levelname} {record.name}: {record.getMessage()}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "message", ...fields, "traceback"?}`"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        said |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str, ensure_ascii=False)


def start(level: str, *, as_json: bool = False) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _word(value: object) -> str:
    text = str(value)
    return text if text and not any(c in text for c in ' "=\n') else json.dumps(text, ensure_ascii=False)
