"""`ctclip evaluate`: whether predictions are right."""

SUMMARY = "Judge predictions by labels; `scores` is what is done where no WORD is given."
WORDS = {"scores": "ctclip_analysis.cli.scores"}
DEFAULT_WORD = "scores"
