"""Whether a model of a hub can be served here, before it is downloaded. Pure."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlxmesh_model.artifacts.folder import is_pickle, is_text, is_weights
from mlxmesh_model.artifacts.kinds import ENCODERS
from mlxmesh_model.hub.architectures import ARCHITECTURES, GGUF_ARCHITECTURES, GGUF_KINDS
from mlxmesh_model.hub.listing import Listing
from mlxmesh_model.replicas.placement import OVERHEAD_BYTES, Runtime

_PART_OF_MANY = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")
# The type of weights at the end of a GGUF file's name, for example Q4_K_M or bf16.
_KIND = re.compile(r"(?:^|[-._])((?:IQ|Q|TQ)\d[A-Z0-9_]*|BF16|F16|F32|FP16|FP32|MXFP4\w*)$", re.I)
_SAME = {"FP16": "F16", "FP32": "F32"}


class Fit(StrEnum):
    """Whether a model can be served here."""

    UNKNOWN = "unknown"
    NOW = "now"
    AFTER_UNLOADING = "after_unloading"
    NEVER = "never"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it fits, and why not."""

    fit: Fit
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to download a model; `file` is empty for its safetensors files."""

    file: str
    size_bytes: int
    memory_bytes: int
    verdict: Verdict


def judged(listing: Listing, runtimes: Collection[Runtime]) -> Verdict:
    """The verdict of a listing without files, from what a search tells."""
    refusal = refused(listing.architecture, runs_code=listing.runs_code)
    if refusal:
        return Verdict(Fit.REFUSED, refusal)
    if not listing.weights_bytes:
        return Verdict(Fit.UNKNOWN, "the hub does not tell its size in a search")
    return verdict(listing.weights_bytes + OVERHEAD_BYTES, runtimes)


def choices(listing: Listing, runtimes: Collection[Runtime]) -> list[Choice]:
    """What can be downloaded of a listing with files."""
    found = list(_choices(listing, runtimes))
    return sorted(found, key=lambda each: (bool(each.file), each.size_bytes, each.file))


def best(found: Sequence[Choice], listing: Listing) -> Verdict:
    """The verdict of a model: that of its best choice."""
    if found:
        return min((each.verdict for each in found), key=lambda each: _ORDER.index(each.fit))
    pickled = any(is_pickle(file.name) for file in listing.files)
    what = "pickled weights only, which can run code" if pickled else "no safetensors or GGUF files"
    return Verdict(Fit.REFUSED, f"the repository has {what}")


_ORDER = (Fit.NOW, Fit.AFTER_UNLOADING, Fit.UNKNOWN, Fit.NEVER, Fit.REFUSED)


def _choices(listing: Listing, runtimes: Collection[Runtime]) -> Iterator[Choice]:
    weights = sum(f.size_bytes or 0 for f in listing.files if is_weights(f.name))
    texts = sum(f.size_bytes or 0 for f in listing.files if is_text(f.name))
    if any(is_weights(file.name) for file in listing.files):
        refusal = refused(listing.architecture, runs_code=listing.runs_code)
        yield _choice("", weights + texts, weights, refusal, runtimes)
    for file in listing.files:
        if file.name.endswith(".gguf") and not _PART_OF_MANY.search(file.name):
            size = file.size_bytes or 0
            refusal = refused_gguf(file.name, listing.gguf_architecture)
            yield _choice(file.name, size, size, refusal, runtimes)


def _choice(
    file: str, size_bytes: int, weights: int, refusal: str, runtimes: Collection[Runtime]
) -> Choice:
    memory_bytes = weights + OVERHEAD_BYTES if weights else 0
    if refusal:
        return Choice(file, size_bytes, memory_bytes, Verdict(Fit.REFUSED, refusal))
    if not weights:
        unknown = Verdict(Fit.UNKNOWN, "the hub does not tell the size of its weights")
        return Choice(file, size_bytes, 0, unknown)
    return Choice(file, size_bytes, memory_bytes, verdict(memory_bytes, runtimes))


def refused(architecture: str, *, runs_code: bool = False) -> str:
    """Why safetensors files of this architecture cannot be served; empty if they can."""
    if runs_code:
        return "its config.json names code of its own (auto_map), which is never run"
    if architecture and architecture not in ARCHITECTURES | ENCODERS:
        return f"engines cannot load the architecture {architecture}"
    return ""


def refused_gguf(file: str, architecture: str) -> str:
    """Why a GGUF file cannot be converted, as far as its name tells; empty if it can."""
    if "/" in file:
        return "it is in a folder of its repository; only GGUF files beside the others are pulled"
    if file.startswith("mmproj"):
        return "it is the image encoder of another file"
    if architecture and architecture not in GGUF_ARCHITECTURES:
        known = ", ".join(sorted(GGUF_ARCHITECTURES))
        return f"GGUF files of {architecture} cannot be converted, only those of {known}"
    kind = gguf_kind(file)
    if kind and kind not in GGUF_KINDS:
        return f"{kind} cannot be converted without loss, only {', '.join(GGUF_KINDS)}"
    return ""


def gguf_kind(file: str) -> str:
    """The type of a GGUF file's weights, as its name tells; empty if it does not."""
    found = _KIND.search(file.removesuffix(".gguf"))
    kind = found[1].upper() if found else ""
    return _SAME.get(kind, kind)


def verdict(memory_bytes: int, runtimes: Collection[Runtime]) -> Verdict:
    """Whether an engine that needs this memory fits on a host."""
    hosts = [runtime for runtime in runtimes if runtime.accepts_engines]
    if not hosts:
        return Verdict(Fit.UNKNOWN, "no runtime runs, so the memory of the hosts is unknown")
    available = max(host.memory_available_bytes for host in hosts)
    limit = max(host.memory_limit_bytes for host in hosts)
    needs = f"it needs at least {_gib(memory_bytes)}"
    if memory_bytes <= available:
        return Verdict(Fit.NOW)
    if memory_bytes <= limit:
        return Verdict(
            Fit.AFTER_UNLOADING,
            f"{needs}; {_gib(available)} are available now, and {_gib(limit)} without other models",
        )
    where = "this host lets" if len(hosts) == 1 else "the largest host lets"
    return Verdict(Fit.NEVER, f"{needs}; {where} engines use {_gib(limit)}")


def _gib(number_of_bytes: int) -> str:
    return f"{number_of_bytes / 2**30:.1f} GiB"
