"""Hints for wrong settings, derived from the types of the configuration's Structs.

The Structs define the valid names, choices and types, so an error can say what to write, where
msgspec's own message only says what is wrong.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

_WORDS: Final = (
    (inspect.BoolType, "true or false"),
    (inspect.IntType, "a whole number"),
    (inspect.FloatType, "a number"),
    (inspect.StrType, "text in quotes"),
)


def said_of(message: str) -> str:
    """msgspec's message, rephrased for a configuration file."""
    words = message.replace("Object contains unknown field", "there is no setting")
    if words.startswith("Object missing required field "):
        return f"{words.removeprefix('Object missing required field ')} is missing"
    return words


def hint_for(settings: type[msgspec.Struct], keys: Sequence[str | int], message: str) -> str:
    """What to write at `keys` below `settings`, given msgspec's `message`; empty if unknown.

    A key is a name, an index in an array, or `*` for any name.
    """
    kinds = list(_at([inspect.type_info(settings)], keys))
    if "unknown field" in message:
        wrong = message.split("`")[1]
        known = [
            field.encode_name
            for kind in kinds
            if isinstance(kind, inspect.StructType)
            for field in kind.fields
        ]
        near = difflib.get_close_matches(wrong, known, n=1)
        return f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
    if message.startswith("Object missing"):
        return f"add it: {message.split('`')[1]} = ..."
    if message.startswith(("Expected", "Invalid enum")):
        words = list(dict.fromkeys(_in_words(kind) for kind in kinds))
        return f"write {' or '.join(words)}" if all(words) else ""
    return ""


def _at(kinds: Sequence[inspect.Type], keys: Sequence[str | int]) -> Iterator[inspect.Type]:
    """The types allowed at `keys`; for a union, those of each member that has `keys`."""
    for kind in kinds:
        if isinstance(kind, inspect.UnionType):
            yield from _at(kind.types, keys)
        elif not keys:
            if not isinstance(kind, inspect.NoneType):
                yield kind
        else:
            yield from _at(list(_below(kind, keys[0])), keys[1:])


def _below(kind: inspect.Type, key: str | int) -> Iterator[inspect.Type]:
    match kind:
        case inspect.StructType(fields=fields):
            yield from (field.type for field in fields if field.encode_name == key)
        case inspect.DictType(value_type=value):
            yield value
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            if isinstance(key, int) or key == "*":
                yield item
        case _:
            return


def _in_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(_as_toml(value) for value in sorted(values, key=str))
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            inner = _in_words(item)
            return f"an array, [...], of {inner}" if inner else "an array, [...]"
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case _:
            return next((words for known, words in _WORDS if isinstance(kind, known)), "")


def _as_toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
