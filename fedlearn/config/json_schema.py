"""The JSON schema of a config, with which editors complete and check the TOML."""

from __future__ import annotations

from typing import Any

from fedlearn.config import schema
from fedlearn.config.documented import key_descriptions
from fedlearn.config.schema import Tables

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema as JSON has it: each table and key with its meaning and default."""
    tables: dict[str, Any] = Tables.model_json_schema()
    descriptions = key_descriptions()
    for name, table in tables.get("$defs", {}).items():
        table["description"] = _line(getattr(schema, name).__doc__)
        for key, text in descriptions.get(name, {}).items():
            table["properties"].get(key, {})["description"] = text
    return {
        "$schema": DIALECT,
        **tables,
        "title": "fedlearn experiment",
        "description": "A fedlearn experiment; every key has a default.",
    }


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
