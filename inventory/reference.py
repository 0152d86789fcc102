"""The reference of resource kinds, docs/kinds.md, made from `KINDS`. `python -m inventory.reference > docs/kinds.md`; a test compares."""

from collections.abc import Iterator

from inventory.kind import Field, Kind, Uses
from inventory.kinds import KINDS

_OPENING = """# Resource kinds

Made from `inventory/kinds/` by `python -m inventory.reference > docs/kinds.md`; do not edit. Every resource has `id`, `kind`, `name`,
`title`, `labels`, `version`, `generation`, `observed_generation`, `desired_state`, `current_state`, `status`, `created_at`,
`updated_at` and `deleted_at` besides. The owner of a field alone writes it: anyone else gets 403.
"""


def markdown(kinds: tuple[Kind, ...] = KINDS) -> str:
    return "\n".join(line for part in ([_OPENING], *(_kind(kind) for kind in kinds)) for line in part) + "\n"


def _kind(kind: Kind) -> Iterator[str]:
    yield f"## {kind.name}\n"
    where = f"`/api/v1/{kind.collection}`, ids `{kind.prefix}-…`"
    yield f"{kind.doc} {kind.nature.value.capitalize()}; {where}, kept by the {kind.manager} manager.\n"
    if kind.states:
        yield f"Desired: {_words(kind.states.desired)}. Current: {_words(kind.states.current)}.\n"
    if kind.verbs:
        yield f"Verbs: {_words(tuple(':' + verb for verb in kind.verbs))}.\n"
    if not kind.published:
        yield "It is not in events.\n"
    yield "| field | type | owner | what it is |\n|---|---|---|---|"
    for field in kind.own_fields:
        if not field.hidden:
            yield f"| `{field.name}` | {_type(field)} | {field.owner} | {_doc(field)} |"
    yield ""


def _type(field: Field) -> str:
    if field.reference:
        return f"{field.reference.kind} ({'its owner' if field.reference.mode is Uses.OWNS else 'id or name'})"
    return " / ".join(f"`{choice}`" for choice in field.choices) if field.choices else field.scalar.value


def _doc(field: Field) -> str:
    notes = [
        note for note, holds in (("required", field.required), ("set once", field.immutable), ("for selectors", field.selectable)) if holds
    ]
    notes += [f"{field.default!r} by default"] if isinstance(field.default, (bool, int, str)) and field.default != "" else []
    return field.doc.replace("|", "\\|") + (f" *{', '.join(notes)}*" if notes else "")


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    print(markdown(), end="")
