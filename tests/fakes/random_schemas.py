"""Random JSON schemas, and what a model writes for them at a high temperature."""

import json
from decimal import Decimal
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.request import FinishReason, GrammarKind
from tests.fakes.constrained_rig import ConstrainedRig, constrained

BATCH = 20
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


BATCHES = st.lists(st.recursive(_LEAVES, _nested, max_leaves=6), min_size=BATCH, max_size=BATCH)


def check(rig: ConstrainedRig, schemas: list[Any]) -> None:
    """Fails if a sequence gets stuck, or ends with what does not satisfy its schema."""
    ran = rig.run(
        *(
            constrained(
                at,
                GrammarKind.JSON_SCHEMA,
                json.dumps(schema),
                max_tokens=120,
                temperature=1.5,
                seed=at,
                eos=rig.eos,
            )
            for at, schema in enumerate(schemas)
        )
    )
    for at, schema in enumerate(schemas):
        last = ran.last(at)
        assert last.error is None, (schema, last.error)
        if last.finish_reason is FinishReason.STOP:
            jsonschema.validate(_exact(rig.text(ran.tokens(at))), _exact(json.dumps(schema)))


def _exact(text: str) -> Any:
    """With decimal numbers: the validator's multipleOf is wrong for binary ones."""
    return json.loads(text, parse_float=Decimal)


def suite(batches: int) -> Any:
    """The settings of a test that gets this many batches of schemas, always the same."""
    return settings(
        max_examples=batches,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
    )
