"""`ctclip evaluate`: whether predictions are right."""

SUMMARY = "Judge predictions by labels: how good they are, and whether a precision keeps it."
WORDS = {
    "scores": "ctclip_analysis.cli.scores",
    "retrieval": "ctclip_analysis.cli.retrieval",
}
DEFAULT_WORD = "scores"
