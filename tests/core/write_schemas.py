"""Make the shipped JSON Schemas again: `python -m tests.core.write_schemas`."""

from pathlib import Path

import openrouter_audit.core.schemas as shipped
from openrouter_audit.core.schemas import schema_texts

if __name__ == "__main__":
    for name, text in schema_texts().items():
        (Path(shipped.__file__).parent / name).write_text(text)
