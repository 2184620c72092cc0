"""ProfileService: each method checks, calls and replies."""

import asyncio
from typing import Any

from grpc.aio import ServicerContext

from mlxmesh.model.v1 import profile_pb2 as pb
from mlxmesh.model.v1 import profile_pb2_grpc
from mlxmesh_model.paging import from_page_token, to_page_token
from mlxmesh_model.profiles.convert import from_settings, to_profile
from mlxmesh_model.profiles.profile import ProfileReference
from mlxmesh_model.profiles.store import Profiles

_Context = ServicerContext[Any, Any]
_DEFAULT_PAGE_SIZE = 100


class ProfileServicer(profile_pb2_grpc.ProfileServiceServicer):
    """The profiles over gRPC; the contract documents each method."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    async def SetProfile(
        self, request: pb.SetProfileRequest, context: _Context
    ) -> pb.SetProfileResponse:
        settings = from_settings(request.settings)
        if settings.chat_template is not None:
            # A long template takes a while to read.
            # Not at the top: Jinja is slow to import, and only this method needs it.
            from mlxmesh_model.profiles.template import check_template

            await asyncio.to_thread(check_template, settings.chat_template)
        profile = await self._profiles.set(request.name, settings)
        return pb.SetProfileResponse(profile=to_profile(profile))

    async def GetProfile(
        self, request: pb.GetProfileRequest, context: _Context
    ) -> pb.GetProfileResponse:
        profile = await self._profiles.profile(ProfileReference.parse(request.profile))
        return pb.GetProfileResponse(profile=to_profile(profile))

    async def ListProfiles(
        self, request: pb.ListProfilesRequest, context: _Context
    ) -> pb.ListProfilesResponse:
        size = request.page_size or _DEFAULT_PAGE_SIZE
        after = from_page_token(request.page_token)
        found = await self._profiles.profiles(after=after, limit=size + 1)
        token = to_page_token(found[size - 1].name) if len(found) > size else ""
        return pb.ListProfilesResponse(
            profiles=map(to_profile, found[:size]), next_page_token=token
        )

    async def DeleteProfile(
        self, request: pb.DeleteProfileRequest, context: _Context
    ) -> pb.DeleteProfileResponse:
        await self._profiles.delete(request.name)
        return pb.DeleteProfileResponse()
