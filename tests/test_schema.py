"""JSON Schemas: equal to what is shipped, valid, and of one mind with the loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from fmn_guard.schema import DOCUMENTS, SchemaName, schema_of, schema_text
from fmn_guard.shipped import attacks, frameworks, manifests, policies, suites

FOLDERS = {
    "concept-manifest": manifests(),
    "release-policy": policies(),
    "audit-suite": suites(),
    "attack-suite": attacks(),
    "policy-cases": policies(),
    "compliance-framework": policies(),
}
SHIPPED = [
    *(("concept-manifest", path) for path in sorted(manifests().glob("*.yaml"))),
    *(("release-policy", path) for path in sorted(policies().glob("*.yaml"))),
    *(("audit-suite", path) for path in sorted(suites().rglob("*.yaml"))),
    *(("attack-suite", path) for path in sorted(attacks().glob("*.yaml"))),
    *(("policy-cases", path) for path in sorted((policies() / "tests").glob("*.yaml"))),
    *(("compliance-framework", path) for path in sorted(frameworks().glob("*.yaml"))),
]


def _load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_shipped_schema_is_the_generated_one(name: SchemaName) -> None:
    shipped = FOLDERS[name] / f"{name}.schema.json"
    assert shipped.read_text(encoding="utf-8") == schema_text(name), (
        f"write it again: fmn-guard schema {name} -o {shipped.name}"
    )


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_schema_is_a_valid_schema_with_a_name_of_its_own(name: SchemaName) -> None:
    schema = schema_of(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"https://fmn-guard.dev/schemas/v1/{name}.json"
    assert schema["title"]


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_every_field_is_described(name: SchemaName) -> None:
    schema = schema_of(name)
    records = [schema, *schema["$defs"].values()]
    fields = [(record["title"], key, field) for record in records for key, field in record["properties"].items()]
    assert not [(title, key) for title, key, field in fields if not field.get("description")]


@pytest.mark.parametrize(("name", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_shipped_file_is_valid_under_its_schema(name: SchemaName, path: Path) -> None:
    Draft202012Validator(schema_of(name)).validate(_load(path))


@pytest.mark.parametrize(("name", "path"), SHIPPED, ids=lambda value: getattr(value, "stem", value))
def test_unknown_key_is_invalid_under_the_schema(name: SchemaName, path: Path) -> None:
    data = _load(path)
    data["spec"]["surprise"] = 1
    assert not Draft202012Validator(schema_of(name)).is_valid(data)


def test_policy_that_extends_another_is_valid_with_parts_of_rules_and_one_that_stands_alone_is_not() -> None:
    validator = Draft202012Validator(schema_of("release-policy"))
    data: dict[str, Any] = _load(policies() / "default.yaml")
    data["spec"] = {"extends": "default", "rules": [{"id": "target-suppressed", "at_most": 0.05}]}
    assert validator.is_valid(data)
    del data["spec"]["extends"]
    assert not validator.is_valid(data)
