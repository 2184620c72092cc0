"""Profiles without a database: references, what engines see of them, and what is legal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.model.v1 import profile_pb2
from mlxmesh_model.profiles.convert import from_settings, to_profile
from mlxmesh_model.profiles.profile import (
    NO_SETTINGS,
    EngineProfile,
    GroupChoice,
    Profile,
    ProfileReference,
    check_fits_model,
    check_settable,
)
from mlxmesh_model.profiles.queries import settings_text, to_settings
from mlxmesh_model.profiles.template import check_template
from mlxmesh_shared.errors import InvalidArgument

SETTINGS = st.builds(
    EngineProfile,
    dtype=st.none() | st.sampled_from(["auto", "float32"]),
    context_tokens=st.none() | st.integers(1, 10**6),
    kv_cache_bytes=st.none() | st.integers(2**20, 2**50),
    kv_cache_type=st.none() | st.sampled_from(["full", "8bit", "4bit"]),
    group_size=st.none() | st.integers(1, 16),
    group_split=st.none() | st.sampled_from(["auto", "tensor", "pipeline"]),
    prefix_cache_bytes=st.none() | st.integers(0, 2**50),
    prefix_disk_bytes=st.none() | st.integers(0, 2**50),
    max_running=st.none() | st.integers(1, 1024),
    max_waiting=st.none() | st.integers(0, 100_000),
    prefill_tokens_per_step=st.none() | st.integers(1, 65_536),
    forward=st.none() | st.sampled_from(["auto", "mlx"]),
    tool_format=st.none() | st.just("json"),
    reasoning_format=st.none() | st.just("think"),
    chat_template=st.none() | st.text(min_size=1),
)


@pytest.mark.parametrize("text", ["fast", "fast@3", "a.b-c_d@999999999"])
def test_references_are_written_as_they_are_read(text: str) -> None:
    assert str(ProfileReference.parse(text)) == text


@given(SETTINGS)
def test_settings_survive_the_database_and_the_wire(settings: EngineProfile) -> None:
    assert to_settings(settings_text(settings)) == settings
    message = to_profile(Profile("p", 1, settings))
    assert from_settings(message.settings) == settings


def test_zero_is_a_setting() -> None:
    zero = from_settings(profile_pb2.EngineProfile(prefix_cache_bytes=0, max_waiting=0))
    assert zero == EngineProfile(prefix_cache_bytes=0, max_waiting=0)
    assert zero != NO_SETTINGS


def test_an_empty_text_is_no_setting() -> None:
    empty = profile_pb2.EngineProfile(dtype="", forward="", tool_format="", reasoning_format="")
    assert from_settings(empty) == NO_SETTINGS


def test_only_what_engines_see_makes_another_engine() -> None:
    assert NO_SETTINGS.settings_id == ""
    output = EngineProfile(tool_format="json", reasoning_format="think", chat_template="{{ 1 }}")
    assert output.settings_id == ""
    small = EngineProfile(context_tokens=64)
    assert small.settings_id not in ("", EngineProfile(context_tokens=65).settings_id)
    assert small.settings_id == EngineProfile(context_tokens=64, tool_format="json").settings_id


@pytest.mark.parametrize(("wanted", "known"), [(64, 256), (256, 256), (10**6, 0), (None, 256)])
def test_a_context_that_the_model_has(wanted: int | None, known: int) -> None:
    profile = Profile("fast", 2, EngineProfile(context_tokens=wanted))
    check_fits_model(profile, label="pocket@1", context_tokens=known)


def test_a_context_beyond_the_models_own() -> None:
    profile = Profile("fast", 2, EngineProfile(context_tokens=4096))
    with pytest.raises(InvalidArgument, match=r"fast@2 .* 4,096, but pocket@1 knows at most 256"):
        check_fits_model(profile, label="pocket@1", context_tokens=256)


def test_the_defaults_cannot_be_changed() -> None:
    check_settable("fast")
    with pytest.raises(InvalidArgument) as caught:
        check_settable("default")
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
        "{% generation %}{{ messages[0]['content'] }}{% endgeneration %}",
        "no tags at all",
        "{{ raise_exception('system messages are not supported') }}",
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
        "{% if 'fromjson' is filter %}{{ tools | fromjson }}{% endif %}",
    ],
)
def test_templates_as_models_have_them(source: str) -> None:
    check_template(source)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for m in messages %}", "line 1"),
        ("a\nb {{ messages[ }}", "line 2"),
        ("{% include 5 %}{% endif %}", "line 1"),
        ("{{" + "(" * 50_000, "nested too deeply|line 1"),
        ("a\n{% unknown_tag %}", r"line 2: Encountered unknown tag '\.\.\.'"),
        ("a\n{{ b | se_cret }}", r"line 2: unknown filter; use one of abs, .*, tojson, "),
        ("{% if a %}{{ b | se_cret }}{% endif %}", "line 1: unknown filter"),
        ("{% filter se_cret %}b{% endfilter %}", "line 1: unknown filter"),
        ("{{ a | map('se_cret') }}", "line 1: unknown filter"),
        ("{{ a | select('se_cret') }}", "line 1: unknown test"),
        ("{{ a | rejectattr('b', 'se_cret') }}", "line 1: unknown test"),
        ("{% if a is se_cret %}b{% endif %}", r"line 1: unknown test; use one of .*, defined, "),
    ],
)
def test_a_template_that_cannot_be_read(source: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        check_template(source)
    assert caught.value.field == "settings.chat_template"


@pytest.mark.parametrize(
    "source",
    [
        "{% se_cret %}",
        "{{ a se_cret }}",
        "{% for se_cret of b %}",
        "{% if se_cret %}",
        "{{ 1 se_cret",
        "{{ 1 | se_cret }}",
        "{{ 1 is se_cret }}",
    ],
)
def test_a_refusal_has_no_text_of_the_template(source: str) -> None:
    with pytest.raises(InvalidArgument, match="line 1") as caught:
        check_template(source)
    assert "se_cret" not in caught.value.message


@pytest.mark.parametrize(
    ("choice", "of_profile", "expected"),
    [
        (GroupChoice(2), (None, None), (2, None)),
        (GroupChoice(1), (2, "pipeline"), (None, None)),
        (GroupChoice(1), (None, None), (None, None)),
        (GroupChoice(3), (2, "pipeline"), (3, "pipeline")),
        (GroupChoice(split="auto"), (2, "pipeline"), (2, None)),
        (GroupChoice(split="tensor"), (None, None), (None, None)),
    ],
)
def test_a_load_may_say_other_groups_than_the_profile(
    choice: GroupChoice,
    of_profile: tuple[int | None, str | None],
    expected: tuple[int | None, str | None],
) -> None:
    size, split = of_profile
    settings = choice.over(EngineProfile(group_size=size, group_split=split, dtype="float32"))
    assert (settings.group_size, settings.group_split) == expected
    assert settings.dtype == "float32"


def test_a_load_that_says_nothing_of_groups_keeps_the_settings() -> None:
    assert not GroupChoice()
    assert GroupChoice(1)
