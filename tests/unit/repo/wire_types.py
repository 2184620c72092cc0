"""Modules that import the contracts' messages although they are neither converters nor servicers.

Each has a reason. Entries of `ALLOWED` stay; those of `KNOWN` must still move to a `convert.py`.
"""

_STUB = "adapter: holds a stub and calls another process"
_EVENT = "events are messages of the contract from where they are published"
_RELAY = "relays messages, and reads in them what it needs for that"
_RULES = "rules are options of the contract's own descriptors"
_OPENAI = "a part of the conversion of OpenAI's JSON, too large for one convert.py"

ALLOWED = {
    "mlxmesh_gateway.access.link": _STUB,
    "mlxmesh_gateway.events.event_log": _EVENT,
    "mlxmesh_gateway.forwarding.generate_stream": _RELAY,
    "mlxmesh_gateway.events.instance_events": _EVENT,
    "mlxmesh_gateway.openai.answers": _OPENAI,
    "mlxmesh_gateway.openai.chat_convert": _OPENAI,
    "mlxmesh_gateway.openai.completion_convert": _OPENAI,
    "mlxmesh_gateway.openai.constraints": _OPENAI,
    "mlxmesh_gateway.openai.labels": _OPENAI,
    "mlxmesh_gateway.openai.logprobs": _OPENAI,
    "mlxmesh_gateway.openai.reasoning": _OPENAI,
    "mlxmesh_gateway.openai.responses.input": _OPENAI,
    "mlxmesh_gateway.openai.responses.settings": _OPENAI,
    "mlxmesh_gateway.openai.several_prompts": _OPENAI,
    "mlxmesh_gateway.openai.shapes": _OPENAI,
    "mlxmesh_gateway.openai.tools": _OPENAI,
    "mlxmesh_gateway.openai.usage": _OPENAI,
    "mlxmesh_gateway.otlp.traces": _STUB,
    "mlxmesh_gateway.events.overload": _EVENT,
    "mlxmesh_gateway.mesh.probes": _STUB,
    "mlxmesh_gateway.forwarding.multiplexer": _RELAY,
    "mlxmesh_gateway.forwarding.recording": _RELAY,
    "mlxmesh_gateway.forwarding.relay_link": _STUB,
    "mlxmesh_gateway.forwarding.routes": "lists the services that are relayed",
    "mlxmesh_gateway.events.webhooks": _EVENT,
    "mlxmesh_generation.placement.engine_link": _STUB,
    "mlxmesh_generation.placement.mirror": _STUB,
    "mlxmesh_generation.reporting.history_link": _STUB,
    "mlxmesh_generation.shadowing.shadow_link": _STUB,
    "mlxmesh_model.replicas.runtimes": _STUB,
    "mlxmesh_model.model_events": _EVENT,
    "mlxmesh_model.topics": "adds the servicers of all topics to one server",
    "mlxmesh_model.rollouts.rollout_events": _EVENT,
    "mlxmesh_runtime.heartbeat": _STUB,
    "mlxmesh_shared.events.bus": _EVENT,
    "mlxmesh_shared.events.delivery": _EVENT,
    "mlxmesh_shared.events.log": _EVENT,
    "mlxmesh_shared.rpc.control": "serves ControlService for every process",
    "mlxmesh_shared.rpc.error_status": "converts errors to statuses and Failure messages, and back",
    "mlxmesh_shared.rpc.server": "adds ControlService to every server",
    "mlxmesh_shared.rules.words": _RULES,
    "mlxmesh_shared.tls.identity": _RULES,
    "mlxmesh_shared.tls.method_access": _RULES,
    "mlxmesh_shared.tls.server_tls": _RULES,
}

KNOWN = {
    "mlxmesh_gateway.mesh.status": "assembles GetMeshStatus's answer while it asks the instances",
    "mlxmesh_gateway.forwarding.telemetry": "describes requests on spans by their message types",
    "mlxmesh_gateway.forwarding.traffic": "counts streams by message types; returns TrafficCounts",
}
