"""The copy of the policies on disk."""

import stat
from pathlib import Path

import pytest

from mlxmesh_gateway.access.policies import Key, Limit, Policies, PolicyChange, Subject, User
from mlxmesh_gateway.access.policy_file import FILE_NAME, PolicyFile
from mlxmesh_shared.errors import IllegalState

CHANGE = PolicyChange(
    revision=7,
    whole=True,
    keys=(
        Key(key_id="k_1", sha256=b"\x01" * 32, user="ada", is_admin=False, models=("qwen*",)),
        Key(key_id="k_2", sha256=b"\x02" * 32, user="bob", is_admin=True, expires_s=2e9),
    ),
    users=(
        User(name="ada", is_admin=True, team="red", tokens_valid_from_s=1e9),
        User(name="bob", is_admin=True),
    ),
    quotas={Subject("team", "red"): {Limit.TOKENS_PER_DAY: 1000}},
    jwks_json='{"keys": []}',
    authentication_required=True,
)


def policies(*changes: PolicyChange) -> Policies:
    result = Policies()
    for change in changes:
        result.apply(change)
    return result


async def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    file = PolicyFile(tmp_path, policies(CHANGE))
    file.keep()
    await file.write()
    loaded = Policies()
    PolicyFile(tmp_path, loaded).load()
    assert loaded.whole() == CHANGE
    assert loaded.known
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_without_a_copy_nothing_is_known(tmp_path: Path) -> None:
    loaded = Policies()
    PolicyFile(tmp_path, loaded).load()
    assert not loaded.known


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"keys": []}', '{"whole": true, "keys": [{"sha256": "AA"}]}']
)
def test_a_copy_that_cannot_be_read_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(IllegalState, match=r"gateway-policies\.json"):
        PolicyFile(tmp_path, Policies()).load()


async def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    file = PolicyFile(tmp_path / "file" / "below", policies(CHANGE))
    file.keep()
    await file.write()
    assert "could not be kept" in caplog.text
