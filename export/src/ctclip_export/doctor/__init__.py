"""Examinations for `ctclip doctor` that need torch or onnx: checkpoints, and graphs.

Each module is an entry point of the group `ctclip.inspectors`, see `ctclip_client.doctor`.
"""
