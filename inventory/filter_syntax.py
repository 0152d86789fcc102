"""The AIP-160 filter language as text: grammar, syntax tree, and errors that name a column.

It knows no kind, no field and no SQL, and decides nothing about types: `inventory.filter` does, its only caller. Parsing is LALR
and builds the tree on the way, so that no input, however nested, can exhaust the interpreter's stack.

Source: AIP-160 (google.aip.dev/160); OR binds tighter than AND, and terms side by side mean AND. What is narrower here: functions
are refused; a value in parentheses may only list alternatives. What is wider: after a comparator a bare value may hold colons, so that
times, MAC and IPv6 addresses need no quotes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args

from inventory.errors import BadRequest

MAX_BYTES = 8192
"""Longest filter, in bytes of UTF-8."""
MAX_DEPTH = 50
"""Deepest nesting of parentheses and NOT."""
MAX_TERMS = 200
"""Most restrictions in one filter; each alternative of `x = (a OR b)` is one."""


class FilterError(BadRequest):
    """A filter or order_by that can't be understood. `column` counts characters from 1 over the whole text."""

    def __init__(self, detail: str, column: int) -> None:
        super().__init__(detail, column=column)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written. text: unescaped, without the star that ends a `prefix`. `quoted` keeps "null" apart from null."""

    text: str
    prefix: bool
    quoted: bool
    column: int

    @property
    def is_null(self) -> bool:
        return self.text == "null" and not self.quoted and not self.prefix

    @property
    def is_any(self) -> bool:
        """A star alone: any value at all."""
        return self.prefix and not self.text


@dataclass(frozen=True, slots=True)
class Comparison:
    """`path operator value`, or `path operator (value OR value)`: several values are alternatives."""

    path: str
    operator: str
    values: tuple[Literal, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Search:
    """A value without a field."""

    value: Literal


@dataclass(frozen=True, slots=True)
class Not:
    operand: "Node"
    column: int


@dataclass(frozen=True, slots=True)
class Group:
    """Parentheses. They mean nothing more, but count as depth."""

    operand: "Node"
    column: int


@dataclass(frozen=True, slots=True)
class All:
    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Some:
    operands: tuple["Node", ...]


Node = Comparison | Search | Not | Group | All | Some

_GRAMMAR = r"""
?start: expression
?expression: sequence (_AND sequence)*                     -> all_of
?sequence: factor+                                         -> all_of
?factor: term (_OR term)*                                  -> any_of
?term: (NOT | MINUS) term                                  -> negation
     | simple
?simple: WORD OPERATOR value                               -> comparison
       | WORD OPERATOR LPAR value (_OR value)* _RPAR       -> alternatives
       | (WORD | STRING)                                   -> search
       | CALL                                              -> call
       | LPAR expression _RPAR                             -> group
?value: VALUE | STRING

_AND.3: /AND(?![^\s()"'])/
_OR.3: /OR(?![^\s()"'])/
NOT.3: /NOT(?![^\s()"'])/
MINUS.3: "-"
LPAR: "("
_RPAR: ")"
OPERATOR: /<=|>=|!=|=|<|>|:/
STRING: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s
CALL.2: /(?!-|(?:AND|OR|NOT)\()[^\s()"'=!<>:,;&|{}\[\]^`]+(?=\()/
WORD.1: /(?!-)[^\s()"'=!<>:,;&|{}\[\]^`]+(?:(?<=\.)(?:"[^"\\]*"|'[^'\\]*'))?/
VALUE.1: /[^\s()"'=!<>,;&|{}\[\]^`]+/
%ignore /\s+/
"""

_EXPECTED = {
    "VALUE": "a value",
    "OPERATOR": "one of = != < <= > >= :",
    "_RPAR": ")",
    "_AND": "AND",
    "_OR": "OR",
    "$END": "the end",
}
"""What an error may say was expected. What begins a term is summed up as one."""

_KEYWORDS = {"and", "or", "not"}
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPED = {'"': '"', "'": "'", "\\": "\\", "*": "*", "n": "\n", "t": "\t"}


def _column(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _path(word: Token) -> str:
    """Its last part may stand in quotes (`labels."line"`), which no name has in it."""
    return word.replace('"', "").replace("'", "")


def _unescape(raw: str, column: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPED:
            raise FilterError(f"\\{match[1]} is no escape; there are \\\" \\' \\\\ \\* \\n \\t", column + match.start())
        return _ESCAPED[match[1]]

    return _ESCAPE.sub(one, raw)


def _split_star(raw: str, column: int) -> tuple[str, bool]:
    """The text before a star that ends it, and whether there was one. An escaped star is no star."""
    stars = [m.start() for m in re.finditer(r"\\.|\*", raw, re.DOTALL) if m[0] == "*"]
    if not stars:
        return raw, False
    if stars[0] != len(raw) - 1:
        raise FilterError("a * may only end a value, as a prefix match; write \\* for a star itself", column + stars[0])
    return raw[:-1], True


def _literal(token: Token) -> Literal:
    quoted = token.type == "STRING"
    raw, column = (token[1:-1], _column(token) + 1) if quoted else (str(token), _column(token))
    if not quoted and raw.lower() in _KEYWORDS:
        advice = "an operator stands between conditions" if raw.isupper() else f"operators are written in capitals: {raw.upper()}"
        raise FilterError(f"{raw} is no condition or value; {advice}; quote it to mean the word", column)
    body, prefix = _split_star(raw, column)
    return Literal(_unescape(body, column), prefix, quoted, _column(token))


@v_args(inline=True)
class _Build(Transformer[Token, Node]):
    """Called by the parser at each reduction, so that the tree is made without recursion."""

    def all_of(self, *operands: Node) -> Node:
        return operands[0] if len(operands) == 1 else All(operands)

    def any_of(self, *operands: Node) -> Node:
        return operands[0] if len(operands) == 1 else Some(operands)

    def negation(self, sign: Token, operand: Node) -> Node:
        return Not(operand, _column(sign))

    def comparison(self, word: Token, operator: Token, value: Token) -> Node:
        return Comparison(_path(word), str(operator), (_literal(value),), _column(word))

    def alternatives(self, word: Token, operator: Token, _paren: Token, *values: Token) -> Node:
        if operator not in ("=", ":"):
            raise FilterError(f"alternatives in parentheses go with = or :, not with {operator}", _column(operator))
        return Comparison(_path(word), str(operator), tuple(_literal(v) for v in values), _column(word))

    def search(self, word: Token) -> Node:
        return Search(_literal(word))

    def call(self, word: Token) -> NoReturn:
        raise FilterError(f"there are no functions; put a space or an operator after {_clip(word)}", _column(word))

    def group(self, paren: Token, operand: Node) -> Node:
        return Group(operand, _column(paren))


_PARSER = Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=_Build())


def parse(text: str) -> Node | None:
    """The syntax tree of a filter; None for an empty one. Raises FilterError, and nothing else."""
    check_text(text)
    if not text.strip():
        return None
    try:
        tree: Any = _PARSER.parse(text)
    except UnexpectedInput as error:
        raise _explain(error, text) from None
    _check_limits(tree)
    return tree  # type: ignore[no-any-return]


def check_text(text: str) -> None:
    """Refuse what is too long for any filter or order_by, or holds what no database text can."""
    for position, character in enumerate(text):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise FilterError("NUL and lone surrogates are no text", position + 1)
    if len(text.encode()) > MAX_BYTES:
        raise FilterError(f"longer than {MAX_BYTES} bytes", MAX_BYTES)


def _explain(error: UnexpectedInput, text: str) -> FilterError:
    match error:
        case UnexpectedToken(token=Token(type="$END")):
            return FilterError(f"the filter ends too early; expected {_expected(error)}", len(text) + 1)
        case UnexpectedToken(token=token):
            return FilterError(f"unexpected {_clip(token)}; expected {_expected(error)}", _column(token))
        case UnexpectedCharacters():
            at: int = error.pos_in_stream  # type: ignore[assignment]  # its base class declares it None
            if text[at] in "\"'":
                return FilterError("the string that starts here is not closed", at + 1)
            return FilterError(f"unexpected {text[at]}; quote a value that holds such characters", at + 1)
        case _:
            return FilterError("not a filter", 1)


def _expected(error: UnexpectedToken) -> str:
    names = set(error.accepts)
    words = [text for name, text in _EXPECTED.items() if name in names]
    if "WORD" in names:
        words.insert(0, "a condition")
    return " or ".join(words)


def _clip(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def _check_limits(root: Node) -> None:
    terms = 0
    stack: list[tuple[Node, int]] = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, Group | Not):
            depth += 1
            if depth > MAX_DEPTH:
                raise FilterError(f"nested more than {MAX_DEPTH} deep", node.column)
        stack.extend((child, depth) for child in _children(node))
        terms += len(node.values) if isinstance(node, Comparison) else isinstance(node, Search)
    if terms > MAX_TERMS:
        raise FilterError(f"more than {MAX_TERMS} conditions", 1)


def _children(node: Node) -> Iterator[Node]:
    match node:
        case All(operands) | Some(operands):
            yield from operands
        case Not(operand) | Group(operand):
            yield operand
        case Comparison() | Search():
            return
