"""Invented files: the config verbs without a file system. Checks what can be checked, remembers digests, and fails when told to."""

from dataclasses import dataclass, field
from pathlib import Path

from broker.messages import ErrorCode, Item, Verb
from edge_agent.appliers import Refusal
from edge_agent.appliers.config import KIND, parse_files
from edge_agent.signals import Failed, Outcome, Run, Succeeded

ROOTS = tuple(Path(path) for path in ("/etc", "/opt", "/srv", "/var", "/usr/local", "/home", "/tmp"))


@dataclass(slots=True)
class Files:
    """The configs of one invented host. `failures`: the outcomes of the next applies, in order; `drifted`: configs edited by hand."""

    configs: dict[str, Item] = field(default_factory=dict)
    failures: list[ErrorCode] = field(default_factory=list)
    drifted: set[str] = field(default_factory=set)
    commands: int = 0

    def run(self, command: Run) -> Outcome:
        self.commands += 1
        resource = command.resource
        if resource is None or resource.kind != KIND:
            return Failed(ErrorCode.POLICY_REFUSED, f"resource: must be a {KIND}")
        if self.failures:
            code = self.failures.pop(0)
            return Failed(code, "invented by the simulator")
        if command.verb == Verb.CONFIG_REMOVE:
            self.configs.pop(resource.id, None)
            self.drifted.discard(resource.id)
            return Succeeded("", (Item(kind=KIND, id=resource.id, generation=resource.generation, state="absent"),))
        try:
            parse_files(command.args, ROOTS)
        except Refusal as error:
            return Failed(error.code, str(error))
        digest = str(command.args["digest"])
        item = Item(kind=KIND, id=resource.id, generation=resource.generation, state="present", digest=digest)
        self.configs[resource.id] = item
        self.drifted.discard(resource.id)
        return Succeeded("", (item,))

    def items(self) -> tuple[Item, ...]:
        return tuple(self._item(id, item) for id, item in self.configs.items())

    def drift(self, id: str | None) -> tuple[str, ...]:
        """Somebody edits one config's files, or all; the ids."""
        chosen = tuple(self.configs) if id is None else tuple(each for each in self.configs if each == id)
        self.drifted.update(chosen)
        return chosen

    def _item(self, id: str, item: Item) -> Item:
        if id not in self.drifted:
            return item
        return Item(
            kind=KIND,
            id=id,
            generation=item.generation,
            state="drifted",
            digest=item.digest,
            reason="Drifted",
            message="a file has other content",
        )
