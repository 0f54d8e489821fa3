"""YAML: reads and writes plain values, by the core schema of YAML 1.2.

Only ``true`` and ``false`` are booleans, ``0o17`` is octal, and dates are text. So ``off``,
``1:30`` and ``2020-01-01`` stay as they were typed. A key given twice, a tag of a type outside the
core schema, and a document that expands without bound are errors.
(https://yaml.org/spec/1.2.2/#103-core-schema)
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver, implicit_resolvers
from ruamel.yaml.tag import Tag

MOST_VALUES = 100_000
"""The largest number of values in a document. Each alias counts its values again."""

_PREFIX = "tag:yaml.org,2002:"
_CORE: tuple[tuple[str, re.Pattern[str], Callable[[str], Any]], ...] = (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z"), lambda text: None),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), lambda t: t.lower() == "true"),
    ("int", re.compile(r"[-+]?[0-9]+\Z"), int),
    ("int", re.compile(r"0o[0-7]+\Z"), lambda text: int(text[2:], 8)),
    ("int", re.compile(r"0x[0-9a-fA-F]+\Z"), lambda text: int(text[2:], 16)),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), float),
    ("float", re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z"), lambda t: float(t.replace(".", ""))),
    ("float", re.compile(r"\.(?:nan|NaN|NAN)\Z"), lambda text: float("nan")),
)
_MERGE = "<<"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_NEVER_FOLD = 1 << 30


class NotYaml(ValueError):
    """A text is not YAML.

    Args:
        problem: The text for the error message.
        line: The number of the line, from 1; None if unknown.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def load(text: str) -> Any:
    """Return the value of a YAML document: None, bool, int, float, str, list or dict.

    A merge key (``<<: *base``) adds the keys of ``base`` that the mapping does not have itself.

    Raises:
        NotYaml: The text is not YAML, gives a key twice, has a type outside the core schema, is
            nested too deeply, or has more than :data:`MOST_VALUES` values.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _CoreResolver
    try:
        root = yaml.compose(text)
        return None if root is None else _Values().of(root)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).strip().partition("\n")[0]
        raise NotYaml(problem, mark and mark.line + 1) from None
    except RecursionError:
        raise NotYaml("nested too deeply") from None


def dump(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML that :func:`load` reads back. The keys keep their order.

    Readers of YAML 1.1 get the same values, since text such as ``off`` is quoted.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Representer = _CautiousResolver, _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = _NEVER_FOLD
    stream = io.StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def _tag(text: str) -> str:
    return next((name for name, pattern, _ in _CORE if pattern.match(text)), "str")


class _CoreResolver(VersionedResolver):
    """Gives each plain scalar its type by the core schema, whatever the document's directives."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return Tag(suffix=_PREFIX + _tag(value))
        return super().resolve(kind, value, implicit)


class _CautiousResolver(_CoreResolver):
    """Tags text that YAML 1.1 would read as another type, such as ``yes``, so that it is quoted."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        if kind is ScalarNode and implicit[0] and _tag(value) == "str" and _is_old(value):
            return Tag(suffix=f"{_PREFIX}old")
        return tag


def _is_old(text: str) -> bool:
    return any(
        pattern.match(text) for versions, _, pattern, _ in implicit_resolvers if (1, 1) in versions
    )


class _Representer(SafeRepresenter):
    def represent_str(self, data: Any) -> ScalarNode:
        # In single quotes, ruamel.yaml would write some line breaks that it reads as a space.
        style = '"' if _UNPRINTABLE.search(data) else None
        return self.represent_scalar(f"{_PREFIX}str", data, style=style)

    def represent_float(self, data: Any) -> ScalarNode:
        node = super().represent_float(data)
        if "e" in node.value and "." not in node.value:  # YAML 1.1 reads 1e-05 as text
            node.value = node.value.replace("e", ".0e")
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(float, _Representer.represent_float)


class _Values:
    """Builds the values of nodes, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, node: Node) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:  # for example by aliases of lists of aliases
            raise NotYaml(f"more than {MOST_VALUES:,} values", _line(node))
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode) and node.tag == f"{_PREFIX}seq":
            return [self.of(item) for item in node.value]
        if isinstance(node, MappingNode) and node.tag == f"{_PREFIX}map":
            return self._mapping(node)
        raise _unknown_tag(node)

    def _mapping(self, node: MappingNode) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key, line = self.of(key_node), _line(key_node)
            if isinstance(key, list | dict):
                raise NotYaml("a key must be text or a number", line)
            if key in lines:
                raise NotYaml(f"the key {key!r} is given twice, first in line {lines[key]}", line)
            lines[key] = line
            if key == _MERGE and key_node.style is None:
                for base in self._bases(value_node):
                    merged = base | merged
            else:
                own[key] = self.of(value_node)
        return merged | own

    def _bases(self, node: Node) -> Iterator[dict[Any, Any]]:
        bases = node.value if isinstance(node, SequenceNode) else [node]
        for base in bases:
            value = self.of(base)
            if not isinstance(value, dict):
                raise NotYaml("<< must be a mapping or a list of mappings", _line(node))
            yield value


def _scalar(node: ScalarNode) -> Any:
    if node.tag == f"{_PREFIX}str":
        return node.value
    of_type = [(p, convert) for name, p, convert in _CORE if node.tag == _PREFIX + name]
    if not of_type:
        raise _unknown_tag(node)
    for pattern, convert in of_type:
        if pattern.match(node.value):
            try:
                return convert(node.value)
            except ValueError:  # Python limits the digits of whole numbers
                break
    name = str(node.tag).removeprefix(_PREFIX)
    raise NotYaml(f"{node.value[:40]!r} cannot be read as {name}", _line(node))


def _unknown_tag(node: Node) -> NotYaml:
    name = str(node.tag).replace(_PREFIX, "!!")
    return NotYaml(f"the type {name} cannot be used here", _line(node))


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
