"""Random JSON schemas."""

import json
from decimal import Decimal
from typing import Any

import jsonschema
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.request import GrammarKind
from tests.fakes.random_languages import BATCH, Language

_NAMES = st.text('abcdé "\\', min_size=1, max_size=4)
_LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-1000, 1000),
        st.integers(0, 500),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 8)),
    st.sampled_from(["[a-z]{1,4}", "^(x|yy)+$", "^[0-9]{2}-[0-9]{2}$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}
    ),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
    st.lists(_NAMES | st.integers(0, 99) | st.booleans(), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    _NAMES.map(lambda value: {"const": value}),
)


def _objects(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], count: int) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:count],
            "additionalProperties": False,
        }

    return st.builds(build, st.dictionaries(_NAMES, schemas, max_size=3), st.integers(0, 3))


def _nested(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(
        lambda items, most, least: {
            "type": "array",
            "items": items,
            "minItems": min(most, least),
            "maxItems": most,
        },
        schemas,
        st.integers(0, 3),
        st.integers(0, 2),
    )
    choices = st.lists(schemas, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    return _objects(schemas) | arrays | choices


def language(schema: Any) -> Language:
    """What the schema allows; `has` raises what is wrong."""
    text = json.dumps(schema)

    def has(output: str) -> bool:
        jsonschema.validate(_exact(output), _exact(text))
        return True

    return Language(GrammarKind.JSON_SCHEMA, text, has)


def _exact(text: str) -> Any:
    """With decimal numbers: the validator's multipleOf is wrong for binary ones."""
    return json.loads(text, parse_float=Decimal)


_SCHEMAS = st.recursive(_LEAVES, _nested, max_leaves=6).map(language)
BATCHES = st.lists(_SCHEMAS, min_size=BATCH, max_size=BATCH)
