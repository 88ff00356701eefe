"""
The JSON Schema of each kind of entry, as it ships in the wheel: `<kind>.json` beside this file.

They are made from the records of `entries` and committed, so that a change of an entry's shape is seen in review;
`python -m tests.core.write_schemas` makes them again, and a test holds them to the records.
"""

from __future__ import annotations

import json

from openrouter_audit.core.entries import KINDS, json_schema, kind_of_class

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_texts() -> dict[str, str]:
    """File name -> text of the schema, for every kind of entry."""
    return {
        f"{kind_of_class(kind)}.json": json.dumps({"$schema": DIALECT, **json_schema(kind)}, indent=2) + "\n"
        for kind in KINDS
    }
