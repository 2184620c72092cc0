"""Checks messages by rules that are compiled from their descriptors once.

A check takes microseconds, so that the gateway and the service behind it both check a request.
Beside the written rules, NaN, infinity and enum numbers outside of the contract are invalid.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message

from mlxmesh_shared.errors import FeatureNotSupported
from mlxmesh_shared.rules.checks import Check, Violation, key_check, scalar_check, size_check
from mlxmesh_shared.rules.words import FieldRules, field_rules, items_words, oneof_rules


@dataclass
class _Plan:
    """The checks of one message type; paths of violations start at the message."""

    # By field number: the check of a field that is set.
    present: dict[int, Check] = field(default_factory=dict[int, Check])
    # Required fields and oneofs.
    fields_needed: dict[int, Violation] = field(default_factory=dict[int, Violation])
    oneofs_needed: dict[str, Violation] = field(default_factory=dict[str, Violation])

    def check(self, message: Message) -> Violation | None:
        """The first violation: of set fields in the order of their numbers, then of absent ones."""
        found = message.ListFields()
        for descriptor, value in found:
            check = self.present.get(descriptor.number)
            if check is not None and (violation := check(value)) is not None:
                return violation
        if self.fields_needed:
            numbers = {descriptor.number for descriptor, _ in found}
            for number, violation in self.fields_needed.items():
                if number not in numbers:
                    return violation
        for name, violation in self.oneofs_needed.items():
            if message.WhichOneof(name) is None:
                return violation
        return None


class Validator:
    """The compiled rules of some message types and of all types in their fields."""

    def __init__(self, descriptors: Iterable[Descriptor]) -> None:
        self._plans: dict[str, _Plan] = {}
        for descriptor in descriptors:
            self._compile(descriptor)

    @classmethod
    def from_files(cls, descriptors: Iterable[FileDescriptor | Descriptor]) -> Self:
        """For all messages of some files, or for some messages."""
        return cls(message for descriptor in descriptors for message in _messages(descriptor))

    @classmethod
    def for_services(cls, *services: ServiceDescriptor) -> Self:
        """For the requests of some services."""
        return cls(method.input_type for service in services for method in service.methods)

    def check(self, message: Message) -> None:
        """Raises: InvalidArgument or FeatureNotSupported, naming the first offending path."""
        plan = self._plans.get(message.DESCRIPTOR.full_name)
        violation = plan.check(message) if plan is not None else None
        if violation is not None:
            text = f"{violation.path} {violation.problem}"
            raise violation.error(text, field=violation.path)

    def _compile(self, descriptor: Descriptor) -> _Plan:
        known = self._plans.get(descriptor.full_name)
        if known is not None:
            return known
        # In the table before it is complete, so that a type may contain itself.
        plan = self._plans[descriptor.full_name] = _Plan()
        for member in descriptor.fields:
            self._compile_field(plan, member)
        for oneof in descriptor.oneofs:
            if oneof_rules(oneof).required:
                names = " or ".join(member.name for member in oneof.fields)
                plan.oneofs_needed[oneof.name] = Violation(oneof.name, f"is required: set {names}")
        return plan

    def _compile_field(self, plan: _Plan, member: FieldDescriptor) -> None:
        rules = field_rules(member)
        check = self._field_check(member, rules)
        if check is not None:
            plan.present[member.number] = check
        absence = _absence(member, rules, check)
        if absence is not None:
            plan.fields_needed[member.number] = absence

    def _field_check(self, member: FieldDescriptor, rules: FieldRules) -> Check | None:
        if rules.unsupported:
            problem = "is not supported by this version; leave it out"
            unsupported = Violation(member.name, problem, FeatureNotSupported)
            return lambda _: unsupported
        entry = _map_entry(member)
        if entry is not None:
            check_value = self._value_check(entry.fields_by_name["value"], rules, required=False)
            return _map_check(member.name, check_value, rules)
        # A required list must not be empty; its elements are not required to differ from zero.
        required = rules.required and not member.is_repeated
        check_value = self._value_check(member, rules, required=required)
        if member.is_repeated:
            return _repeated_check(member.name, check_value, rules)
        return _under(member.name, check_value) if check_value is not None else None

    def _value_check(
        self, member: FieldDescriptor, rules: FieldRules, *, required: bool
    ) -> Check | None:
        if member.message_type is not None:
            return self._compile(member.message_type).check
        return scalar_check(member, rules, required=required)


def _messages(descriptor: FileDescriptor | Descriptor) -> Iterable[Descriptor]:
    if isinstance(descriptor, FileDescriptor):
        return descriptor.message_types_by_name.values()
    return (descriptor,)


def _map_entry(member: FieldDescriptor) -> Descriptor | None:
    entry = member.message_type
    return entry if entry is not None and entry.GetOptions().map_entry else None


def _absence(member: FieldDescriptor, rules: FieldRules, check: Check | None) -> Violation | None:
    """What is wrong when a field is not set: worked out once, from its default."""
    if rules.required:
        return Violation(member.name, "is required")
    if rules.unsupported or member.has_presence:
        return None
    if member.is_repeated:
        needed = Violation(member.name, f"must have {items_words(rules)}")
        return needed if rules.min_items else None
    return check(member.default_value) if check is not None else None


def _under(prefix: str, check: Check) -> Check:
    def under(value: Any) -> Violation | None:
        violation = check(value)
        return None if violation is None else _prefixed(prefix, violation)

    return under


def _repeated_check(name: str, check_value: Check | None, rules: FieldRules) -> Check | None:
    check_size = size_check(rules)
    if check_size is None and check_value is None:
        return None

    def check(values: Any) -> Violation | None:
        if check_size is not None and (violation := check_size(values)) is not None:
            return _prefixed(name, violation)
        if check_value is not None:
            for index, value in enumerate(values):
                if (violation := check_value(value)) is not None:
                    return _prefixed(f"{name}[{index}]", violation)
        return None

    return check


def _map_check(name: str, check_value: Check | None, rules: FieldRules) -> Check | None:
    check_key, check_size = key_check(rules), size_check(rules)

    def check_entry(key: Any, value: Any) -> Violation | None:
        violation = check_key(key) if check_key is not None else None
        if violation is None and check_value is not None:
            violation = check_value(value)
        return violation

    def check(entries: Any) -> Violation | None:
        if check_size is not None and (violation := check_size(entries)) is not None:
            return _prefixed(name, violation)
        for key, value in entries.items():
            if (violation := check_entry(key, value)) is not None:
                return _prefixed(f"{name}[{_shown_key(key)}]", violation)
        return None

    return check if check_key or check_size or check_value else None


def _shown_key(key: object) -> str:
    # A text key is the caller's own text, which must not appear in a message.
    return "*" if isinstance(key, str) else str(key)


def _prefixed(prefix: str, violation: Violation) -> Violation:
    path = f"{prefix}.{violation.path}" if violation.path else prefix
    return violation._replace(path=path)
