"""Pages for people: what was found in a scan, and whether it is right."""
