"""What a measurement leaves behind: one JSON schema, whatever was measured."""
