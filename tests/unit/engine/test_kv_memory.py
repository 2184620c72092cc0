from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory, kv_memory


def test_the_default_is_half_of_the_available_memory() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=50, available_bytes=4000, configured_bytes=None)
    assert kv == KvMemory(10, 2000)
    assert kv.capacity_tokens == 200


def test_the_default_is_at_least_one_context() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=500, available_bytes=4000, configured_bytes=None)
    assert kv.capacity_tokens == 500


def test_a_configured_limit_is_used() -> None:
    kv = kv_memory(token_bytes=10, context_tokens=500, available_bytes=4000, configured_bytes=99)
    assert kv.capacity_tokens == 9


def test_there_is_no_limit_if_the_token_size_is_unknown() -> None:
    assert UNKNOWN_KV.capacity_tokens is None
    kv = kv_memory(token_bytes=0, context_tokens=500, available_bytes=4000, configured_bytes=None)
    assert kv.capacity_tokens is None
