"""`ctclip evaluate`: whether predictions are right."""

SUMMARY = "Compare predictions with labels: AUROC and more; thresholds; one precision with another."
WORDS = {
    "scores": "ctclip_analysis.cli.scores",
    "retrieval": "ctclip_analysis.cli.retrieval",
}
DEFAULT_WORD = "scores"
