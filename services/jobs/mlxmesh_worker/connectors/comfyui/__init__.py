"""Connectors of ComfyUI: run a workflow, and store what its output nodes save."""
