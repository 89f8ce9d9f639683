"""JSON Schemas of the files that people write, generated from the records: editors complete and check by them.

A schema knows shapes only; rules across fields are `fmn_guard.lint`'s.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic.json_schema import GenerateJsonSchema

from .attacks.suite import AttackSuite
from .cases import PolicyCases
from .frameworks import ComplianceFramework
from .manifest import Manifest
from .policy import PolicyFile
from .record import Record, field_docs
from .suite import AuditSuite

SchemaName = Literal[
    "concept-manifest", "release-policy", "audit-suite", "attack-suite", "policy-cases", "compliance-framework"
]
DOCUMENTS: dict[SchemaName, type[Record]] = {
    "concept-manifest": Manifest,
    "release-policy": PolicyFile,
    "audit-suite": AuditSuite,
    "attack-suite": AttackSuite,
    "policy-cases": PolicyCases,
    "compliance-framework": ComplianceFramework,
}


class _Described(GenerateJsonSchema):
    """Pydantic's generator, with the docstrings under fields and without titles that only repeat a field's name."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        made = super().model_schema(schema)
        docs = field_docs(schema["cls"])
        for name, field in schema["cls"].model_fields.items():
            if name in docs:
                made["properties"][field.alias or name]["description"] = docs[name]
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_of(name: SchemaName) -> dict[str, Any]:
    """The JSON Schema, draft 2020-12, of a kind of file."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"https://fmn-guard.dev/schemas/v1/{name}.json",
        **DOCUMENTS[name].model_json_schema(schema_generator=_Described),
    }


def schema_text(name: SchemaName) -> str:
    """The schema as the file that is shipped."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"
