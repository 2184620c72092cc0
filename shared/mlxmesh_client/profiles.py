"""The client's methods for profiles."""

from typing import TypedDict, Unpack

from mlxmesh.model.v1 import profile_pb2 as pb
from mlxmesh.model.v1.profile_pb2_grpc import ProfileServiceStub
from mlxmesh_client.calls import Calls


class ProfileSettings(TypedDict, total=False):
    """Settings of engines; what is missing or None keeps the default."""

    dtype: str | None
    context_tokens: int | None
    kv_cache_bytes: int | None
    kv_cache_type: str | None
    prefix_cache_bytes: int | None
    prefix_disk_bytes: int | None
    max_running: int | None
    max_waiting: int | None
    prefill_tokens_per_step: int | None
    forward: str | None
    max_adapters: int | None
    adapter_bytes: int | None
    speculative: str | None
    draft_model: str | None
    group_size: int | None
    group_split: str | None
    tool_format: str | None
    reasoning_format: str | None
    chat_template: str | None


class ProfileMethods:
    """One method per RPC of ProfileService."""

    _calls: Calls
    _profiles: ProfileServiceStub

    async def set_profile(
        self, name: str, *, timeout_s: float | None = None, **settings: Unpack[ProfileSettings]
    ) -> pb.Profile:
        """Stores a new revision of a profile with these settings, and no others.

        Versions that are loaded keep the revision they were loaded with.
        """
        request = pb.SetProfileRequest(name=name, settings=pb.EngineProfile(**settings))
        call = self._profiles.SetProfile
        return (await self._calls.unary(call, request, timeout_s, safe=False)).profile

    async def get_profile(self, profile: str, *, timeout_s: float | None = None) -> pb.Profile:
        """Returns a profile: NAME for its newest revision, or NAME@REVISION."""
        request = pb.GetProfileRequest(profile=profile)
        call = self._profiles.GetProfile
        return (await self._calls.unary(call, request, timeout_s, safe=True)).profile

    async def list_profiles(self, *, timeout_s: float | None = None) -> list[pb.Profile]:
        """Returns the newest revision of every profile, sorted by name."""
        profiles: list[pb.Profile] = []
        request = pb.ListProfilesRequest()
        while True:
            call = self._profiles.ListProfiles
            page = await self._calls.unary(call, request, timeout_s, safe=True)
            profiles.extend(page.profiles)
            if not page.next_page_token:
                return profiles
            request.page_token = page.next_page_token

    async def delete_profile(self, name: str, *, timeout_s: float | None = None) -> None:
        """Removes a profile that no version uses, with all its revisions."""
        request = pb.DeleteProfileRequest(name=name)
        await self._calls.unary(self._profiles.DeleteProfile, request, timeout_s, safe=False)
