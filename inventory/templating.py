"""What a config's template says without being rendered: whether it can be parsed, and which secrets it uses. Pure.

Templates are rendered in a process of their own (`managers.rendering`). Called by the config kind and by the renderer.
"""

from functools import lru_cache

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import SandboxedEnvironment

SECRETS = "secrets"
"""What templates call them."""


def parsed(template: str) -> nodes.Template:
    """Raises ValueError saying where it is none."""
    try:
        return SandboxedEnvironment().parse(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"is no Jinja2 template: line {error.lineno}: {error.message}") from None


@lru_cache(maxsize=1024)
def uses_secrets(template: str) -> bool:
    """Whether it names them at all. One that can't be parsed does not."""
    try:
        return any(name.name == SECRETS for name in parsed(template).find_all(nodes.Name))
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def secrets_used(template: str) -> frozenset[str]:
    """Those that it names itself, as `secrets.NAME` or `secrets["NAME"]`; others may come about while it is rendered."""
    if not uses_secrets(template):
        return frozenset()
    found = [node.attr for node in parsed(template).find_all(nodes.Getattr) if _secrets(node.node)]
    items = [node.arg for node in parsed(template).find_all(nodes.Getitem) if _secrets(node.node)]
    return frozenset([*found, *(item.value for item in items if isinstance(item, nodes.Const) and isinstance(item.value, str))])


def _secrets(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == SECRETS
