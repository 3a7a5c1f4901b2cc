"""Releases: which version of a repository is served, and how another takes its place.

All models made from one checkpoint, geometry, precision and prompt list share a version number.
Each model's config states the versions that Triton loads, and each ensemble pins the version of
its steps; so the configs on disk say at any moment what a restarted server would serve.
"""
