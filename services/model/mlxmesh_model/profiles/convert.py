"""Converts profiles to ProfileService's messages and back."""

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import profile_pb2
from mlxmesh_model.profiles.profile import EngineProfile, Profile


def from_settings(message: profile_pb2.EngineProfile) -> EngineProfile:
    """The settings of a message; what is not set keeps the default."""
    return EngineProfile(**{field.name: value for field, value in message.ListFields()})


def to_profile(profile: Profile) -> profile_pb2.Profile:
    """A profile as a message."""
    message = profile_pb2.Profile(
        name=profile.name,
        revision=profile.revision,
        settings=profile_pb2.EngineProfile(**profile.settings.given),  # pyright: ignore[reportArgumentType]
        used_by=profile.used_by,
    )
    if profile.created_at is not None:
        created = Timestamp()
        created.FromDatetime(profile.created_at)
        message.create_time.CopyFrom(created)
    return message
