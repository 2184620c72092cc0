"""Checks JSON against JSON Schemas: `python -I check_program.py`.

A program of its own, because a schema of a hostile server can keep a checker busy for years. It
reads lines [schema, value], each text that is JSON, and answers each with a line that says what
differs; empty without. A check that takes too long ends the program.
"""

import json
import signal
import sys
from typing import Any, NoReturn

import jsonschema_rs

MAX_CHECK_S = 5.0
MAX_VALIDATORS = 64
_MASK = "the value"
_MAX_CHARACTERS = 300
_validators: dict[str, Any] = {}


def main() -> None:
    """Until the input ends."""
    for line in sys.stdin:
        # What this signal ends cannot be caught: the checker does not return to Python.
        signal.setitimer(signal.ITIMER_REAL, MAX_CHECK_S)
        answer = json.dumps(_difference(*json.loads(line)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _difference(schema: str, value: str) -> str:
    try:
        validator = _validator(schema)
    except (ValueError, jsonschema_rs.ValidationError):
        return "cannot be checked: the schema of the tool is not valid"
    parsed = json.loads(value)
    if validator.is_valid(parsed):
        return ""
    # All errors together can be too many to look at; the first one is enough.
    error = next(validator.iter_errors(parsed))
    steps = error.instance_path
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return f"{where.lstrip('.') or 'differs'}: {error.message}"[:_MAX_CHARACTERS]


def _validator(schema: str) -> Any:
    found = _validators.get(schema)
    if found is None:
        if len(_validators) >= MAX_VALIDATORS:
            _validators.clear()
        found = _validators[schema] = jsonschema_rs.validator_for(
            json.loads(schema),
            mask=_MASK,  # which is stored nowhere
            pattern_options=jsonschema_rs.RegexOptions(),
            retriever=_no_document,
        )
    return found


def _no_document(uri: str) -> NoReturn:
    raise ValueError(uri)


if __name__ == "__main__":
    main()
