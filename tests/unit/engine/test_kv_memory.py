from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory, kv_memory


def test_half_of_what_is_available_by_default() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=50, available_bytes=4000, configured_bytes=None)
    assert kv == KvMemory(10, 2000)
    assert kv.capacity_tokens == 200


def test_one_context_at_least() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=500, available_bytes=4000, configured_bytes=None)
    assert kv.capacity_tokens == 500


def test_what_was_asked_for_is_what_there_is() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=500, available_bytes=4000, configured_bytes=99)
    assert kv.capacity_tokens == 9


def test_no_limit_where_a_token_takes_nothing_that_is_known() -> None:
    assert UNKNOWN_KV.capacity_tokens is None
    kv = kv_memory(token_bytes=0, context_tokens=500, available_bytes=4000, configured_bytes=None)
    assert kv.capacity_tokens is None
