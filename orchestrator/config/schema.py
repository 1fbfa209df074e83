"""The JSON schema of a stream file, for editors and validators, from the classes that check it.

It says less than ``config.file`` does: what fits together only the plan tells.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, is_dataclass
from functools import cache
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from orchestrator.config.baselines import BASELINES
from orchestrator.config.describing import documented, table_name
from orchestrator.config.file import FileKeys, LaneKeys
from orchestrator.config.run import Resources
from orchestrator.config.sections import ABSENT, SECTIONS
from orchestrator.evaluations import EVALUATIONS
from orchestrator.policies import POLICIES
from workers.contract import Json
from workers.tables import first_line, resolved

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OUTSIDE = {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "module:Class, imported"}
ANY: Json = {}


def schema() -> Json:
    """The schema: one definition for each entry of each table that a stream file can name."""
    made = _Schema()
    lane = made.keys(LaneKeys)
    sections = {name: made.choice(section.table()) for name, section in SECTIONS.items()}
    policy = {"anyOf": [{"const": ABSENT}, made.choice(POLICIES)]}
    sections["policies"] = {
        "description": "Policies by name, asked in this order.",
        "anyOf": [{"const": ABSENT}, {"type": "object", "additionalProperties": policy}],
    }
    sections["evaluation"] = made.choice(EVALUATIONS)
    sections["resources"] = made.plain(Resources)
    baselines = {"type": "array", "items": {"enum": sorted(BASELINES)}, "uniqueItems": True}
    both = {**sections, "baselines": baselines}
    lanes = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "additionalProperties": False, "properties": {**lane, **both}},
    }
    top = made.keys(FileKeys)
    return {
        "$schema": DIALECT,
        "title": "growstage stream file",
        "type": "object",
        "required": ["name", "lanes"],
        "additionalProperties": False,
        "properties": {**top, **both, "lanes": lanes},
        "$defs": dict(sorted(made.definitions.items())),
    }


@dataclass(slots=True)
class _Schema:
    """Definitions made so far; an entry is defined once, however often it can be named."""

    definitions: dict[str, Json] = field(default_factory=dict)

    def choice(self, table: Mapping[str, type]) -> Json:
        """A value that names an entry of a table, alone or with its settings."""
        name = table_name(table)
        if name not in self.definitions:
            self.definitions[name] = ANY  # stands for it inside itself
            entries = [self._entry(name, kind, cls) for kind, cls in table.items()]
            outside = {"type": "object", "required": ["kind"], "properties": {"kind": OUTSIDE}}
            names = {"enum": list(table)}
            self.definitions[name] = {"anyOf": [names, OUTSIDE, *entries, outside]}
        return {"$ref": f"#/$defs/{name}"}

    def _entry(self, table: str, kind: str, cls: type) -> Json:
        """The table of one entry; keys may be missing, as a lane's lie over the file's."""
        name = f"{table}.{kind}"
        config = getattr(cls, "Config", None)
        if config is None or not is_dataclass(config):
            return {"type": "object", "properties": {"kind": {"const": kind}}}
        properties = self.fields(config) | {"kind": {"const": kind}}
        self.definitions[name] = {
            "type": "object",
            "description": first_line(cls),
            "additionalProperties": False,
            "properties": properties,
        }
        return {"$ref": f"#/$defs/{name}"}

    def fields(self, config: Any) -> Json:
        """Schemas of a Config's keys, with their texts and defaults."""
        texts, hints = documented(config), typing.get_type_hints(config)
        return {
            item.name: self._field(item, hints[item.name])
            | ({"description": _sentence(texts[item.name])} if item.name in texts else {})
            | _default(item)
            for item in dataclasses.fields(config)
        }

    def _field(self, item: Field[Any], hint: Any) -> Json:
        table = item.metadata.get("table")
        if table is None:
            return self.plain(hint)
        chosen = self.choice(resolved(table))
        return {"type": "array", "items": chosen} if item.metadata.get("many") else dict(chosen)

    def plain(self, hint: Any) -> Json:
        """The schema of a type without choices; anything goes where there is none."""
        if is_dataclass(hint):
            properties = self.fields(hint)
            return {"type": "object", "additionalProperties": False, "properties": properties}
        found = dict(_of_type(hint))
        self.definitions |= found.pop("$defs", {})
        return found

    def keys(self, config: Any) -> Json:
        """The same of keys that stand beside the sections."""
        return {name: told for name, told in self.fields(config).items() if name != "baselines"}


@cache
def _of_type(hint: Any) -> Json:
    """What pydantic says of a type; made once, as most keys are of few types."""
    try:
        return TypeAdapter(hint).json_schema(ref_template="#/$defs/{model}")
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return ANY


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _default(item: Field[Any]) -> Json:
    """A default that JSON can show; tables' are left to their own entries."""
    value = item.default
    plain = isinstance(value, str | int | float | bool)
    return {"default": value} if value is not MISSING and plain else {}
