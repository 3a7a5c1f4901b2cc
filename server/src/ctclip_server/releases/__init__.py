"""Releases: which version of a repository is served, and how another takes its place.

All models made from one checkpoint, geometry, precision and prompt list share a version number.
Each model's config states the versions that Triton loads, and each ensemble pins the version of
its steps; so the configs on disk say at any moment what a restarted server would serve.

`may_serve`: whether a version may. `place`: bring a release in as a new version. `switch`: make a
running server change over. `control`: what it is told and asked. `versions`: those in the configs.
"""
