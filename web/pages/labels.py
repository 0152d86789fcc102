"""Labels as people type them: `key=value`, one a line. Pure."""

from inventory.errors import Invalid, Problem


def written_labels(labels: dict[str, str]) -> str:
    return "\n".join(f"{key}={value}" for key, value in sorted(labels.items()))


def read_labels(text: str) -> dict[str, str]:
    """Raises Invalid naming the line. What keys and values may be is the kind's to say."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition("=")
        if not line.strip():
            continue
        if not equals or not key.strip():
            raise Invalid(f"labels: line {number}: write key=value", errors=(Problem("/labels", f"line {number}: write key=value"),))
        if key.strip() in found:
            raise Invalid(
                f"labels: line {number}: {key.strip()} is there twice",
                errors=(Problem("/labels", f"line {number}: {key.strip()} is there twice"),),
            )
        found[key.strip()] = value.strip()
    return found
