"""Which settings an engine can have as a rank of a group. Pure."""

from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument
from mlxmesh_shared.host.host_port import is_loopback, split_host_port
from mlxmesh_shared.settings import EngineSettings

_OFF: dict[str, object] = {
    "speculative": "off",
    "max_adapters": 0,
    "prefix_disk_bytes": 0,
    "kv_cache_type": "full",
}
"""What a group does without. Where a setting is not given, this is its value."""


def of_rank(settings: EngineSettings) -> EngineSettings:
    """The settings of one rank, checked. Raises: InvalidArgument, FeatureNotSupported."""
    _check_rank(settings)
    _check_supported(settings)
    host, _ = split_host_port(settings.group_listen)
    if not (is_loopback(host) or settings.insecure_group):
        raise InvalidArgument(
            f"the tensors of a group travel without encryption, and group_listen is {host}: set "
            "insecure_group if the network between the hosts is protected",
            field="insecure_group",
        )
    return settings.model_copy(update=_OFF)


def _check_rank(settings: EngineSettings) -> None:
    rank, size, leader = settings.group_rank, settings.group_size, settings.group_leader
    if rank >= size:
        raise InvalidArgument(
            f"a group of {size} has the ranks 0 to {size - 1}, not {rank}", field="group_rank"
        )
    if rank and not leader:
        raise InvalidArgument(
            "name the address at which rank 0 listens for the others: --group-leader HOST:PORT",
            field="group_leader",
        )
    if settings.group_share_ppm and not (rank and settings.group_split == "pipeline"):
        raise InvalidArgument(
            "only a rank above 0 with group_split pipeline is told its share",
            field="group_share_ppm",
        )
    if leader and not rank:
        raise InvalidArgument("rank 0 leads, and follows nobody", field="group_leader")


def _check_supported(settings: EngineSettings) -> None:
    needed: dict[str, object] = _OFF | {"kind": "generation", "backend": "mlx"}
    for name, value in needed.items():
        own = getattr(settings, name)
        if name in settings.model_fields_set and own != value:
            raise FeatureNotSupported(
                f"a group of ranks does not support {name} {own}; set it to {value}, or "
                "group_size to 1",
                field=name,
            )
