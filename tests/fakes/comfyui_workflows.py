"""Workflows of the fake ComfyUI: its nodes, and how it checks a prompt.

Written from validate_prompt in execution.py of Comfy-Org/ComfyUI 0.38.1.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

SAMPLERS = ("euler", "dpmpp_2m")
OUTPUTS = ("SaveImage", "PreviewImage", "ShowText")
REQUIRED = {
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CLIPTextEncode": ("text", "clip"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "LoadImage": ("image",),
    "KSampler": ("model", "seed", "steps", "sampler_name", "latent_image"),
    "SaveImage": ("images", "filename_prefix"),
    "PreviewImage": ("images",),
    "ShowText": ("text",),
    "Breaks": ("after",),
}


def validated(
    prompt: dict[str, Any], wanted: list[str] | None, files: Container[str]
) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
    for node_id, node in prompt.items():
        if node.get("class_type") not in REQUIRED:
            missing = f"Node '{node.get('class_type')}' not found."
            text = f"{missing} The custom node may not be installed."
            return error_of("missing_node_type", text, f"Node ID '#{node_id}'"), [], {}
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] in OUTPUTS and (wanted is None or node_id in wanted)
    ]
    if not outputs:
        return error_of("prompt_no_outputs", "Prompt has no outputs", ""), [], {}
    good, node_errors = [], dict[str, Any]()
    for output in outputs:
        bad = False
        for node_id in needed_by(prompt, output):
            if problems := _problems(prompt[node_id], files):
                bad = True
                found = node_errors.setdefault(
                    node_id,
                    {
                        "errors": problems,
                        "dependent_outputs": [],
                        "class_type": prompt[node_id]["class_type"],
                    },
                )
                found["dependent_outputs"].append(output)
        good += [] if bad else [output]
    if good:
        return None, good, node_errors
    details = "\n".join(
        f"{problem['message']}: {problem['details']}"
        for found in node_errors.values()
        for problem in found["errors"]
    )
    text = "Prompt outputs failed validation"
    return error_of("prompt_outputs_failed_validation", text, details), [], node_errors


def _problems(node: dict[str, Any], files: Container[str]) -> list[dict[str, Any]]:
    inputs = node["inputs"]
    missing = [name for name in REQUIRED[node["class_type"]] if name not in inputs]
    problems = [
        error_of("required_input_missing", "Required input is missing", name) for name in missing
    ]
    sampler = inputs.get("sampler_name")
    if node["class_type"] == "KSampler" and sampler not in (None, *SAMPLERS):
        details = f"sampler_name: '{sampler}' not in {list(SAMPLERS)}"
        problems.append(error_of("value_not_in_list", "Value not in list", details))
    image = inputs.get("image")
    if node["class_type"] == "LoadImage" and image is not None and image not in files:
        details = f"image - Invalid image file: {image}"
        problems.append(
            error_of("custom_validation_failed", "Custom validation failed for node", details)
        )
    return problems


def needed_by(prompt: dict[str, Any], output: str) -> list[str]:
    """The nodes that an output needs, each after those that it needs itself."""
    found: list[str] = []
    for value in prompt[output]["inputs"].values():
        if isinstance(value, list) and len(value) == 2 and value[0] in prompt:
            found += needed_by(prompt, value[0])
    return list(dict.fromkeys([*found, output]))


def error_of(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def workflow(steps: int = 4, **sampler: Any) -> dict[str, Any]:
    """A workflow that makes an image of a text."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    links = {"model": ["4", 0], "latent_image": ["5", 0]}
    settings = {"seed": 1, "steps": steps, "sampler_name": "euler", **sampler}
    nodes = {
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "a.safetensors"}),
        "5": ("EmptyLatentImage", size),
        "3": ("KSampler", {**links, **settings}),
        "9": ("SaveImage", {"images": ["3", 0], "filename_prefix": "mesh"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
