"""YAML files that people write -> records; the problems of a file are reported together, each with its place.

    file --_read--> text --_compose--> nodes --_Reading--> plain data --parse_plain--> Record
                                         `--> Positions: where each field is written

YAML is read as version 1.2: ``no`` is a string, and so is a date until a field asks for a date. Each guard
against hostile or mistaken input has a rule id. What makes the rest unreadable (syntax, size, cycles) or
meaningless (another kind of file) is reported alone; all else is collected and mended in one round.
"""

import codecs
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from .errors import FileProblems, Problem
from .faults import Fault, Loc, RuleViolation, RuleViolations, envelope_faults, schema_faults
from .record import Record, parse_plain

# Validators of records need the violations, and import them from where their files are loaded.
__all__ = [
    "Loc",
    "Positions",
    "RuleViolation",
    "RuleViolations",
    "in_file_order",
    "load_yaml",
    "load_yaml_positions",
    "parse_record",
    "read_yaml",
]

R = TypeVar("R", bound=Record)

# A manifest of 2,000 concepts with every field filled has 38,000 nodes in 390 KiB, and lints in 4 s of CPU: see
# `python -m benchmarks`. These leave room for 5,000 such concepts and 10 s; a file in which every value is wrong takes
# twice that. Time goes by nodes far more than by bytes, so they are counted while they are composed.
MAX_NODES = 100_000
MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64

_CORE = "tag:yaml.org,2002:"
_MERGE = f"{_CORE}merge"
# Timestamps and "=" are special in YAML 1.1 only, and "<<" only as a key: elsewhere they are text.
_TEXT = {f"{_CORE}{name}" for name in ("str", "timestamp", "value", "merge")}
_KNOWN_TAGS = {
    ScalarNode: _TEXT | {f"{_CORE}{name}" for name in ("int", "float", "bool", "null")},
    SequenceNode: {f"{_CORE}seq"},
    MappingNode: {f"{_CORE}map"},
}


def load_yaml(path: Path, record: type[R]) -> R:
    """Read a YAML file into a record.

    Raises:
        FileProblems: All problems of the file, in file order.
    """
    return load_yaml_positions(path, record)[0]


def load_yaml_positions(path: Path, record: type[R]) -> tuple[R, "Positions"]:
    """Read a YAML file into a record, and keep where its fields are written for later messages.

    Raises:
        FileProblems: All problems of the file, in file order.
    """
    data, positions, problems = read_yaml(path)
    result, faults = parse_record(data, record)
    problems += [
        positions.problem(fault.rule, fault.message, *fault.loc, hint=fault.hint, on_key=fault.on_key)
        for fault in faults
    ]
    if result is None or problems:
        raise FileProblems(in_file_order(problems))
    return result, positions


def read_yaml(path: Path) -> tuple[Any, "Positions", list[Problem]]:
    """Read the plain data of a YAML file, with what is wrong with it as YAML.

    Raises:
        FileProblems: The file cannot be read at all.
    """
    source = _Source(path)
    yaml = YAML(typ="safe", pure=True)
    positions = Positions(source, _compose(yaml, source))
    reading = _Reading(yaml, source, positions)
    return reading.visit(positions.root).value, positions, reading.problems


def parse_record(data: object, record: type[R]) -> tuple[R | None, list[Fault]]:
    """Turn plain data into a record; where there is none, into what is wrong with the data."""
    # Under a wrong envelope every field is wrong as well, which says nothing.
    if faults := list(envelope_faults(data, record)):
        return None, faults
    try:
        return parse_plain(data, record), []
    except ValidationError as error:
        return None, list(schema_faults(error, record))


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, in the order in which they stand in their file."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


class _Source:
    """The text of a file, known to be UTF-8 and small; it words the problems of that file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError as error:
            raise self.failure((1, 1), "no-such-file", "there is no such file", "check the path") from error
        except IsADirectoryError as error:
            raise self.failure((1, 1), "is-a-folder", "this is a folder", "name a YAML file in it") from error
        except OSError as error:
            raise self.failure((1, 1), "unreadable-file", str(error.strerror), "check its permissions") from error
        if len(data) > MAX_BYTES:
            message = f"the file is larger than {MAX_BYTES // 1024} KiB"
            raise self.failure((1, 1), "file-too-large", message, "split it into several files")
        data = data.removeprefix(codecs.BOM_UTF8)
        self.text = data.decode(errors="replace")
        self.lines = self.text.splitlines()
        try:
            data.decode()
        except UnicodeDecodeError as error:
            message = f"byte 0x{data[error.start]:02x} is not UTF-8"
            place = self.place_at(len(data[: error.start].decode()))
            raise self.failure(place, "not-utf-8", message, "save the file as UTF-8") from error

    def place_at(self, index: int) -> tuple[int, int]:
        """Line and column of a character."""
        before = self.text[:index]
        return before.count("\n") + 1, index - before.rfind("\n")

    def problem(self, place: tuple[int, int], rule: str, message: str, hint: str | None) -> Problem:
        line, column = place
        source_line = self.lines[line - 1] if line <= len(self.lines) else None
        return Problem(self.path, line, column, rule, message, hint, source_line)

    def failure(self, place: tuple[int, int], rule: str, message: str, hint: str) -> FileProblems:
        """A problem that leaves nothing else to report."""
        return FileProblems([self.problem(place, rule, message, hint)])


class Positions:
    """Where each field of a YAML file is written; lines and columns count from 1."""

    def __init__(self, source: _Source, root: Node) -> None:
        self.root = root
        self._source = source
        self._entries: dict[int, dict[str, tuple[Node, Node]]] = {}

    @property
    def path(self) -> Path:
        """The file."""
        return self._source.path

    def of(self, *loc: str | int) -> tuple[int, int]:
        """Line and column of a field's key or a list's item.

        A field that is not written, a default for one, is placed at its closest ancestor.

        Args:
            loc: The path of the field, such as ``"spec", "concepts", 0, "phrase"``.
        """
        return _place(self._find(loc)[0])

    def problem(
        self, rule: str, message: str, *loc: str | int, hint: str | None = None, on_key: bool = False
    ) -> Problem:
        """Word a problem of this file that only shows later, when several files are compared for one.

        Args:
            rule: Stable id of the broken rule.
            message: What is wrong, with the value.
            loc: The path of the field.
            hint: The way out, when there is one.
            on_key: Put the caret under the field's key instead of its value.
        """
        key, value = self._find(loc)
        return self._source.problem(_place(key if on_key else value), rule, message, hint)

    def entries(self, mapping: MappingNode) -> dict[str, tuple[Node, Node]]:
        """Key and value nodes of a mapping: its own before merged ones, the first of duplicates."""
        if id(mapping) not in self._entries:
            entries: dict[str, tuple[Node, Node]] = {}
            merged: list[Node] = []
            for key, value in mapping.value:
                if key.tag == _MERGE:
                    merged += value.value if isinstance(value, SequenceNode) else [value]
                elif _is_text(key):
                    entries.setdefault(key.value, (key, value))
            for other in merged:
                if isinstance(other, MappingNode):
                    entries = {**self.entries(other), **entries}
            self._entries[id(mapping)] = entries
        return self._entries[id(mapping)]

    def _find(self, loc: Loc) -> tuple[Node, Node]:
        key = value = self.root
        for part in loc:
            if isinstance(value, MappingNode) and isinstance(part, str) and part in self.entries(value):
                key, value = self.entries(value)[part]
            elif isinstance(value, SequenceNode) and isinstance(part, int) and part < len(value.value):
                key = value = value.value[part]
            else:
                break
        return key, value


def _place(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _is_text(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag in _TEXT


class _TooManyNodesError(MarkedYAMLError):
    pass


class _Composer(Composer):
    """Stops at the first node too many, rather than when all of them are there."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooManyNodesError(problem_mark=self.parser.peek_event().start_mark)
        return super().compose_node(parent, index)


def _compose(yaml: YAML, source: _Source) -> Node:
    """The node tree of the one document in a file; an alias is the node it points to, not a copy."""
    directive = re.search(r"^%\S*", source.text, re.MULTILINE)
    if directive:  # "%YAML 1.1" would turn `no` into false
        message = f"the directive {directive[0]} is not supported"
        place = source.place_at(directive.start())
        raise source.failure(place, "yaml-directive", message, "delete the line: files are YAML 1.2")
    yaml.Composer = _Composer
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False  # an anchor may be used again
    try:
        documents: list[Node] = list(yaml.compose_all(source.text))
    except ReaderError as error:
        message = f"the character U+{error.character:04X} is not allowed"
        place = source.place_at(error.position)
        raise source.failure(place, "yaml-syntax", message, "delete it, or escape it in double quotes") from error
    except (ValueError, OverflowError) as error:  # from chr(), which ruamel calls with any number
        escape = re.search(r"\\U(?!000|0010)[0-9A-Fa-f]{8}", source.text)
        place = source.place_at(escape.start() if escape else 0)
        message = "there is no character with this number"
        raise source.failure(place, "yaml-syntax", message, r"the last one is \U0010FFFF") from error
    except MarkedYAMLError as error:
        place = (error.problem_mark.line + 1, error.problem_mark.column + 1)
        if isinstance(error, MaxDepthExceededError):
            message = f"values are nested more than {MAX_DEPTH} deep"
            raise source.failure(place, "too-deep", message, "no format of fmn-guard needs that") from error
        if isinstance(error, _TooManyNodesError):
            raise source.failure(place, "too-many-nodes", f"more than {MAX_NODES} values", "split the file") from error
        hint = 'put a value with ": " or " #" or a special first character in quotes; indent with spaces only'
        if error.context and error.context_mark:
            hint = f"this was found {error.context} that starts on line {error.context_mark.line + 1}"
        raise source.failure(place, "yaml-syntax", error.problem, hint) from error
    if len(documents) > 1:
        hint = "keep one document in a file"
        raise source.failure(_place(documents[1]), "several-documents", "a second document starts here", hint)
    if not documents or (isinstance(documents[0], ScalarNode) and not documents[0].value):
        raise source.failure((1, 1), "empty-file", "the file holds no data", "start from one of the examples")
    return documents[0]


class _Seen(NamedTuple):
    value: Any
    size: int
    depth: int


class _Reading:
    """One walk over the nodes: their plain data, and the problems that are YAML's own.

    A node is visited once, however many aliases point to it: a "billion laughs" costs no more than its text.
    """

    def __init__(self, yaml: YAML, source: _Source, positions: Positions) -> None:
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor
        self._source = source
        self._positions = positions
        self._seen: dict[int, _Seen | None] = {}  # None while the node is being visited

    def visit(self, node: Node) -> _Seen:
        """The plain value of a node, with its size and depth as if all aliases were written out."""
        if id(node) in self._seen:
            seen = self._seen[id(node)]
            if seen is None:
                message = f"&{node.anchor} contains an alias of itself"
                raise self._failure(node, "cyclic-alias", message, "remove that alias")
            return seen
        self._seen[id(node)] = None
        # An alias points back to what has been visited already: recursion is as deep as the text, no more.
        match node:
            case MappingNode():
                children = [self.visit(child) for pair in node.value for child in pair]
            case SequenceNode():
                children = [self.visit(child) for child in node.value]
            case _:
                children = []
        # Long text counts for more, lest a few aliases of it fill the memory.
        size = 1 + sum(child.size for child in children) + (0 if children else len(node.value) // 100)
        if size > MAX_NODES:
            message = f"more than {MAX_NODES} values once aliases are written out"
            raise self._failure(node, "too-many-nodes", message, "use fewer aliases, or split the file")
        depth = 1 + max((child.depth for child in children), default=0)
        if depth > MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} deep once aliases are written out"
            raise self._failure(node, "too-deep", message, "no format of fmn-guard needs that")
        self._seen[id(node)] = seen = _Seen(self._value(node), size, depth)
        return seen

    def _value(self, node: Node) -> Any:
        if node.tag not in _KNOWN_TAGS[type(node)]:
            tag = str(node.tag).replace(_CORE, "!!")
            hint = "delete the tag; plain data needs none"
            self._add(node, "unknown-tag", f"the tag {tag} is not allowed here", hint)
        match node:
            case ScalarNode():
                return self._scalar(node)
            case MappingNode():
                self._check_keys(node)
                entries = self._positions.entries(node)
                return {key: self.visit(value).value for key, (_, value) in entries.items()}
            case _:
                return [self.visit(item).value for item in node.value]

    def _scalar(self, node: ScalarNode) -> Any:
        if re.search("[\ud800-\udfff]", node.value):
            hint = r"write \UXXXXXXXX, not \uXXXX\uXXXX"
            self._add(node, "bad-format", "half of a surrogate pair is no character", hint)
            node.value = re.sub("[\ud800-\udfff]", "\ufffd", node.value)  # JSON could not carry it further
        if node.tag in _KNOWN_TAGS[ScalarNode] - _TEXT:
            try:
                return self._constructor.construct_object(node)
            except (ValueError, LookupError):  # "!!int abc", and integers of thousands of digits
                tag = str(node.tag).removeprefix(_CORE)
                hint = "put it in quotes if it is text"
                self._add(node, "bad-format", f"this cannot be read as {tag}", hint)
        return node.value

    def _check_keys(self, mapping: MappingNode) -> None:
        first: dict[str, Node] = {}
        for key, value in mapping.value:
            if not _is_text(key):
                self._add(key, "non-string-key", "this key is not a string", "put it in quotes")
            elif key.value in first:
                line, _ = _place(first[key.value])
                message = f"{key.value!r} is already set on line {line}"
                self._add(key, "duplicate-key", message, "keep one of them")
            else:
                first[key.value] = key
            sources = value.value if isinstance(value, SequenceNode) else [value]
            if key.tag == _MERGE and not all(isinstance(source, MappingNode) for source in sources):
                message = "'<<' takes a mapping or a list of mappings"
                self._add(value, "wrong-type", message, "point it to the anchor of a mapping")

    def _add(self, node: Node, rule: str, message: str, hint: str) -> None:
        self.problems.append(self._source.problem(_place(node), rule, message, hint))

    def _failure(self, node: Node, rule: str, message: str, hint: str) -> FileProblems:
        """The problems up to and including the one that makes it impossible to go on."""
        self._add(node, rule, message, hint)
        return FileProblems(self.problems)
