"""What lies in a release of a model repository: its records, read and checked in one place."""
