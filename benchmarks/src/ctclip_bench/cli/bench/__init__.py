"""`ctclip bench WORD`: what was measured is known, the rest is said not to be."""

SUMMARY = "Measure graphs, a server, the way from a file to an answer, a GPU; verdict first."
WORDS = {
    "graphs": "ctclip_bench.cli.bench.graphs",
    "serve": "ctclip_bench.cli.bench.serve",
    "file": "ctclip_bench.cli.bench.file",
    "growth": "ctclip_bench.cli.bench.growth",
    "report": "ctclip_bench.cli.bench.report",
    "compare": "ctclip_bench.cli.bench.compare",
    "gpu": "ctclip_bench.cli.bench.gpu",
}
DEFAULT_WORD = "serve"
