"""Generates docs/api.md from the contracts and docs/modules.md from the modules' docstrings.

`make docs` writes both; `--check` only reports whether they are current.
"""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from mlxmesh.common.v1.rules_pb2 import MethodRules
from mlxmesh_shared.rules import describe
from mlxmesh_shared.tls.method_access import declared_rules, format_roles

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "shared/mlxmesh_shared": "code that all services share",
    "services/runtime/mlxmesh_engine": "the engine, one process per replica",
    "services/runtime/mlxmesh_runtime": "the runtime, one process per host",
    "services/model/mlxmesh_model": "the model service, with the catalogue",
    "services/access/mlxmesh_access": "the access service: users, keys, quotas, usage",
    "services/jobs/mlxmesh_jobs": "the jobs service: durable jobs, batches, files",
    "services/jobs/mlxmesh_worker": "a worker: runs jobs, in the mesh and at other back ends",
    "services/tools/mlxmesh_tools": "the tools service: MCP servers and calls of their tools",
    "services/generation/mlxmesh_generation": "the generation service",
    "gateway/mlxmesh_gateway": "the gateway, the only public service",
    "shared/mlxmesh_client": "the Python client",
    "gateway/mlxmesh_cli": "the `mlxmesh` command",
    "deploy/mlxmesh_launcher": "starts and supervises a mesh on one host",
}
# Field numbers in descriptor.proto, from which the paths of source locations are built.
MESSAGE, ENUM, SERVICE, FIELD, METHOD, VALUE = 4, 5, 6, 2, 2, 2
REPEATED = FieldDescriptorProto.LABEL_REPEATED
OWN = "mlxmesh/"

Place = tuple[int, ...]


class Comments:
    """The comments of one contract, by the path of the element that each describes."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._texts = {
            tuple(place.path): " ".join(place.leading_comments.split())
            for place in file.source_code_info.location
        }

    def at(self, *path: int) -> str:
        """The comment, on one line; empty when there is none."""
        return self._texts.get(path, "")


def api() -> str:
    """The API page."""
    encoded = files("mlxmesh").joinpath("descriptors.binpb").read_bytes()
    contracts = [
        file for file in FileDescriptorSet.FromString(encoded).file if file.name.startswith(OWN)
    ]
    for file in contracts:
        import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    lines = [
        "# API",
        "",
        "Generated from the contracts by `make docs`; the comments there are the source.",
        "The page includes internal services; the gateway serves only those marked as public.",
    ]
    for file in sorted(contracts, key=lambda each: (not each.service, each.name)):
        lines += _file(file)
    return "\n".join(lines) + "\n"


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments = Comments(file)
    yield from ("", f"## `{file.package}`: {Path(file.name).name}")
    for index, service in enumerate(file.service):
        yield from _service(file.package, service, comments, (SERVICE, index))
    for index, message in enumerate(file.message_type):
        yield from _message(file.package, message, comments, (MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        yield from _enum(enum, comments, (ENUM, index))


def _service(
    package: str, service: ServiceDescriptorProto, comments: Comments, path: Place
) -> Iterator[str]:
    known = descriptor_pool.Default().FindServiceByName(f"{package}.{service.name}")
    callers = [_callers(rules) for _, rules in declared_rules(known)]
    yield from ("", f"### service {service.name}", "", comments.at(*path), "")
    yield from ("| RPC | request | response | callers | |", "| --- | --- | --- | --- | --- |")
    for index, method in enumerate(service.method):
        request = _stream(method.client_streaming) + _short(method.input_type)
        response = _stream(method.server_streaming) + _short(method.output_type)
        text = comments.at(*path, METHOD, index)
        yield f"| `{method.name}` | {request} | {response} | {callers[index]} | {text} |"


def _callers(rules: MethodRules) -> str:
    at_gateway = format_roles(rules.gateway_roles)
    return format_roles(rules.allowed_roles) + (
        f"; at the gateway: {at_gateway}" * bool(at_gateway)
    )


def _message(
    package: str, message: DescriptorProto, comments: Comments, path: Place
) -> Iterator[str]:
    yield from ("", f"### {message.name}", "", comments.at(*path))
    if not message.field:
        return
    known = descriptor_pool.Default().FindMessageTypeByName(f"{package}.{message.name}")
    yield from ("", "| field | type | legal | |", "| --- | --- | --- | --- |")
    for index, field in enumerate(message.field):
        legal = describe(known.fields_by_name[field.name]).replace("|", "\\|")
        text = comments.at(*path, FIELD, index)
        yield f"| `{field.name}` | {_type(message, field)} | {legal} | {text} |"


def _enum(enum: EnumDescriptorProto, comments: Comments, path: Place) -> Iterator[str]:
    yield from ("", f"### enum {enum.name}", "", comments.at(*path), "")
    yield from ("| value | number | |", "| --- | --- | --- |")
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {comments.at(*path, VALUE, index)} |"


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entry = next((each for each in message.nested_type if each.options.map_entry), None)
    if entry and field.type_name.endswith(f".{entry.name}"):
        return f"map<{_plain(entry.field[0])}, {_plain(entry.field[1])}>"
    if field.label == REPEATED:
        return f"repeated {_plain(field)}"
    if field.HasField("oneof_index") and not field.proto3_optional:
        return f"{_plain(field)} (one of `{message.oneof_decl[field.oneof_index].name}`)"
    return ("optional " if field.proto3_optional else "") + _plain(field)


def _plain(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _short(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _short(full_name: str) -> str:
    return full_name.rsplit(".", 1)[-1]


def _stream(streaming: bool) -> str:
    return "stream " if streaming else ""


def modules() -> str:
    """The list of modules, one line each."""
    lines = ["# Modules", "", "Generated from the modules' docstrings by `make docs`."]
    for folder, title in PACKAGES.items():
        lines += ["", f"## `{folder}`: {title}", "", "| module | purpose |", "| --- | --- |"]
        for file in sorted((ROOT / folder).rglob("*.py")):
            if text := _summary(file):
                lines.append(f"| `{_module(file, ROOT / folder)}` | {text} |")
    return "\n".join(lines) + "\n"


def _module(file: Path, folder: Path) -> str:
    name = file.parent if file.name == "__init__.py" else file.with_suffix("")
    return str(name.relative_to(folder))


def _summary(file: Path) -> str:
    if file.name == "__init__.py" and (file.parent / "__main__.py").exists():
        return ""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def main() -> int:
    pages = {ROOT / "docs" / "api.md": api(), ROOT / "docs" / "modules.md": modules()}
    stale = [page for page, text in pages.items() if not page.exists() or page.read_text() != text]
    if "--check" in sys.argv[1:]:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is not current: run `make docs`")
        return 1 if stale else 0
    for page in stale:
        page.write_text(pages[page])
        print(f"wrote {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
