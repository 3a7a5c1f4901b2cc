"""One module a phase, each with `measure(subject, rows)`; it imports what it needs itself."""
