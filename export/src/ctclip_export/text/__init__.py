"""The text side: vocabulary, tokens, and the folder of a checkpoint's text model."""
