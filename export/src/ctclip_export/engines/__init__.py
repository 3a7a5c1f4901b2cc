"""TensorRT engines of a repository's graphs, each with a record of what it was built from."""
