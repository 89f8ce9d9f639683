"""What is wrong with plain data, in the words of the file it came from: pydantic's errors -> faults.

Pydantic knows what is wrong; the annotations of the record know what was wanted. A fault says both, without
a word about tuples or unions, under a rule id that scripts can rely on.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .record import Record, field_docs

Loc = tuple[str | int, ...]
"""Path of a field, as written in the file."""

# What a value is called, alone and in "a list of ...".
_NOUNS: dict[Any, tuple[str, str]] = {
    str: ("a string", "strings"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    date: ("a date such as 2026-11-30", "dates such as 2026-11-30"),
    datetime: ("a time such as 2026-11-30T12:00:00Z", "times such as 2026-11-30T12:00:00Z"),
}
# Attributes of constraints, which are also the keys of pydantic's error contexts.
_LIMITS = {
    "ge": "at least",
    "gt": "more than",
    "min_length": "at least",
    "le": "at most",
    "lt": "less than",
    "max_length": "at most",
    "multiple_of": "a multiple of",
}


class RuleViolation(ValueError):
    """Raised by a validator of a record to name the rule that the value breaks.

    Args:
        rule: Stable id of the rule, such as ``keep-is-target``.
        message: What is wrong, with the value.
        hint: The way out, when there is one.
        loc: Path of the offending field below the value being validated, as written in the file.
    """

    def __init__(self, rule: str, message: str, *, hint: str | None = None, loc: Loc = ()) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule
        self.message = message
        self.hint = hint
        self.loc = loc


class RuleViolations(ValueError):
    """Several violations that one validator found.

    Args:
        violations: What was found, in any order.
    """

    def __init__(self, violations: Iterable[RuleViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(map(str, self.violations)))


class Fault(NamedTuple):
    """One thing that is wrong with a piece of data.

    Attributes:
        loc: Path of the field, as written in the file.
        on_key: Whether the fault is the field's key or absence rather than its value.
        rule: Stable id of the broken rule.
        message: What is wrong, with the value.
        hint: The way out, when there is one.
    """

    loc: Loc
    on_key: bool
    rule: str
    message: str
    hint: str | None


class _Spot(NamedTuple):
    """Where an error's location leads in the record.

    Attributes:
        loc: The location without the parts that pydantic adds for members of a union.
        owner: The record that the last key belongs to.
        field: That key's field, if the record has it.
        wanted: The annotation of the value.
    """

    loc: Loc
    owner: type[BaseModel]
    field: FieldInfo | None
    wanted: Any


def envelope_faults(data: object, record: type[Record]) -> Iterator[Fault]:
    """Check ``apiVersion`` and ``kind``: is this the sort of file that the record is about?"""
    if not isinstance(data, dict):
        return
    for key, rule in (("apiVersion", "wrong-api-version"), ("kind", "wrong-kind")):
        field = _fields(record).get(key)
        if field is not None and key in data and get_origin(field.annotation) is Literal:
            allowed = get_args(field.annotation)
            if data[key] not in allowed:
                message = f"{key!r} is {_given(data[key])}, wanted {_alternatives(allowed)}"
                yield Fault((key,), False, rule, message, _did_you_mean(data[key], allowed))


def schema_faults(error: ValidationError, record: type[Record]) -> Iterator[Fault]:
    """Say each of pydantic's errors in the words of the file."""
    details = [(detail, _locate(record, detail["loc"])) for detail in error.errors(include_url=False)]
    above = {spot.loc[:length] for _, spot in details for length in range(len(spot.loc))}
    # Pydantic tries each member of a union: where one came further than "wrong type", the others are noise.
    nearer = above | {spot.loc for detail, spot in details if not detail["type"].endswith("_type")}
    for detail, spot in details:
        kind = detail["type"]
        if kind.endswith("_type") and spot.loc in nearer:
            continue
        # It does not count wrong items, which are faults already, and so finds a list too short that is not.
        if kind == "too_short" and spot.loc in above and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue
        yield from _explain(detail, spot)


def _explain(detail: ErrorDetails, spot: _Spot) -> Iterator[Fault]:
    """The faults that one of pydantic's errors stands for; several only if a validator says so."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    loc, about = spot.loc, _about(spot)
    hint: str | None
    subject = f"{_name(loc)} is {_given(given)}"
    match kind:
        case _ if detail["loc"][-1:] == ("[key]",):
            message = f"{loc[-1]!r} cannot be a key here: {_own_words(detail)}"
            yield Fault(loc, True, "unknown-key", message, _did_you_mean(loc[-1], _quoted(detail["msg"])))
        case "extra_forbidden":
            known = _fields(spot.owner)
            hint = _did_you_mean(loc[-1], known) or f"known here: {', '.join(known)}"
            yield Fault(loc, True, "unknown-key", f"{loc[-1]!r} is not a field of {_title(spot.owner)}", hint)
        case "missing":
            message = f"{_title(spot.owner)} needs {_name(loc)}"
            yield Fault(loc[:-1], True, "missing-key", message, _example(spot))
        case "union_tag_not_found":
            tag = context["discriminator"].strip("'")
            hint = f"{tag}: {_alternatives(_tags(spot.wanted, tag))}"
            yield Fault(loc, True, "missing-key", f"{tag!r} is missing", hint)
        case "union_tag_invalid":
            tag = context["discriminator"].strip("'")
            allowed = _tags(spot.wanted, tag)
            message = f"{tag!r} is {_given(given[tag])}, wanted {_alternatives(allowed)}"
            yield Fault((*loc, tag), False, "unknown-kind", message, _did_you_mean(given[tag], allowed) or about)
        case "literal_error" | "enum":
            message = f"{subject}, wanted {context['expected']}"
            hint = _did_you_mean(given, _quoted(context["expected"])) or about
            yield Fault(loc, False, "unknown-value", message, hint)
        case "value_error":
            failure = context["error"]
            violations = failure.violations if isinstance(failure, RuleViolations) else (failure,)
            for violation in violations:
                if isinstance(violation, RuleViolation):
                    place = loc + violation.loc
                    yield Fault(place, False, violation.rule, violation.message, violation.hint or about)
                else:
                    yield Fault(loc, False, "bad-value", f"{subject}: {violation}", about)
        case "too_short" | "too_long" | "string_too_short" | "string_too_long":
            unit = "character" if kind.startswith("string") else "item"
            count = f"{_name(loc)} has {len(given)} {unit}{'' if len(given) == 1 else 's'}"
            yield Fault(loc, False, "out-of-range", f"{count}, wanted {_limits(spot, context)}", about)
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "multiple_of":
            yield Fault(loc, False, "out-of-range", f"{subject}, wanted {_limits(spot, context)}", about)
        case "finite_number":
            yield Fault(loc, False, "out-of-range", f"{subject}, wanted a finite number", about)
        case "string_pattern_mismatch":
            message = f"{subject}, which does not match {context['pattern']}"
            yield Fault(loc, False, "bad-format", message, about)
        case _ if kind.endswith("_type") or kind in ("int_from_float", "none_required"):
            wanted = _noun(spot.wanted)
            hint = _conversion(given, wanted) or about
            yield Fault(loc, False, "wrong-type", f"{subject}, wanted {wanted}", hint)
        case _:
            rule = "bad-format" if re.search("pars|^url|^uuid|^date|^time", kind) else "bad-value"
            yield Fault(loc, False, rule, f"{subject}: {_own_words(detail)}", about)


def _locate(record: type[Record], loc: Loc) -> _Spot:
    """Follow an error's location through the annotations."""
    spot = _Spot((), record, None, record)
    step: Any = record  # the annotation that the next part selects from
    for part in loc:
        if part == "[key]":
            break  # the error is about the key just passed, not about a value below it
        step = _bare(step)
        origin, arguments = get_origin(step), get_args(step)
        if origin in (Union, UnionType):
            # Not a part of the file: pydantic names the member of the union that it tried.
            step = next((member for member in arguments if _answers_to(member, part)), Any)
            continue
        if _is_record(step):
            field = _fields(step).get(str(part))
            step, spot = (field.annotation if field else Any), spot._replace(owner=step, field=field)
        elif origin is dict:
            step = arguments[1]
        elif origin is tuple and isinstance(part, int) and Ellipsis not in arguments and part < len(arguments):
            step = arguments[part]
        else:
            step = arguments[0] if arguments else Any
        spot = spot._replace(loc=(*spot.loc, part), wanted=step)
    return spot


def _bare(annotation: Any) -> Any:
    """An annotation without Annotated and without "or None", which leave no trace in locations."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _answers_to(member: Any, label: object) -> bool:
    """Whether pydantic calls a member of a union by this label: its tag, its class name or its spelling."""
    member = _bare(member)
    if _is_record(member):
        tags = (get_args(field.annotation) for field in member.model_fields.values())
        return label == member.__name__ or any(label in values for values in tags)
    return label in (getattr(member, "__name__", None), str(member))


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _fields(record: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in record.model_fields.items()}


def _tags(union: Any, key: str) -> list[str]:
    members = [_bare(member) for member in get_args(_bare(union))]
    return [tag for member in members if _is_record(member) for tag in get_args(_fields(member)[key].annotation)]


def _constraints(annotation: Any) -> Iterator[Any]:
    """The constraints on a value itself: not on what it holds, nor on one of several alternatives."""
    if get_origin(annotation) is Annotated:
        for item in annotation.__metadata__:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
    elif _bare(annotation) is not annotation:
        yield from (item for member in get_args(annotation) for item in _constraints(member))


def _limits(spot: _Spot, context: dict[str, Any]) -> str:
    """Both ends of the range, where the annotation has them; pydantic names only the one that was missed."""
    own = spot.field.metadata if spot.field and spot.field.annotation is spot.wanted else []
    for holders in ([*own, *_constraints(spot.wanted)], [SimpleNamespace(**context)]):
        limits = [(words, getattr(holder, name, None)) for name, words in _LIMITS.items() for holder in holders]
        told = [f"{words} {limit}" for words, limit in limits if limit is not None]
        if told:
            break
    return " and ".join(told)


def _own_words(detail: ErrorDetails) -> str:
    """Pydantic's own message, for errors that are not worth words of ours."""
    return detail["msg"].replace("Input should", "it should")


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _example(spot: _Spot) -> str | None:
    """How to write a field that is missing."""
    if spot.field is None:
        return None
    key = spot.loc[-1]
    if spot.field.examples:
        return f"for example: {key}: {spot.field.examples[0]}"
    if get_origin(spot.field.annotation) is Literal:
        return f"add {key}: {get_args(spot.field.annotation)[0]}"
    return f"{key}: {_about(spot) or _noun(spot.wanted)}"


def _about(spot: _Spot) -> str | None:
    """What the record says of a field."""
    docs = field_docs(spot.owner)
    return next((docs.get(name) for name, field in spot.owner.model_fields.items() if field is spot.field), None)


def _noun(annotation: Any, many: bool = False) -> str:
    """What the values of an annotation are called in a file."""
    bare = _bare(annotation)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin in (Union, UnionType):
        nouns = (_noun(member, many) for member in arguments if member is not type(None))
        return " or ".join(dict.fromkeys(nouns))
    if origin is Literal:
        return _alternatives(arguments)
    if origin in (tuple, list, set, frozenset):
        return f"{'lists' if many else 'a list'} of {_noun(arguments[0], many=True)}"
    if origin is dict or _is_record(bare):
        return "mappings" if many else "a mapping"
    return _NOUNS.get(bare, ("another kind of value", "other values"))[many]


def _given(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return f"the string {_short(value)}"
        case int() | float():
            return f"the number {_short(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _conversion(given: object, wanted: str) -> str | None:
    """How to turn what was given into what is wanted, where that is a matter of spelling."""
    if wanted == "a string" and isinstance(given, bool | int | float):
        return "put it in quotes to make it a string"
    if wanted in ("a whole number", "a number", "true or false") and isinstance(given, str):
        return "without quotes it is not a string" if re.fullmatch(r"true|false|[-+.\d]+", given) else None
    if wanted.startswith("a list") and given is not None and not isinstance(given, list | dict):
        return f"a list of one is written [{given}]"
    return None


def _name(loc: Loc) -> str:
    """The last key of a location with the indices behind it: ``'aliases[2]'``."""
    name = ""
    for part in loc:
        name = f"{name}[{part}]" if isinstance(part, int) else part
    return repr(name) if name else "the file"


def _title(record: type[BaseModel]) -> str:
    """``ObjectConcept`` -> "an object concept"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", record.__name__).lower()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _alternatives(values: Iterable[object]) -> str:
    options = [repr(value) for value in values]
    return options[0] if len(options) == 1 else f"one of {', '.join(options)}"


def _did_you_mean(word: object, options: Iterable[object]) -> str | None:
    # Compared without case and separators, so that `api_version` finds `apiVersion`.
    plain = {re.sub(r"[\s_-]", "", str(option)).lower(): option for option in options}
    close = difflib.get_close_matches(re.sub(r"[\s_-]", "", str(word)).lower(), plain, n=1)
    return f"did you mean {plain[close[0]]!r}?" if close else None
