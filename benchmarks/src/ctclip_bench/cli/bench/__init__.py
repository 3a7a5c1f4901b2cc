"""`ctclip bench WORD`: what was measured is known, the rest is said not to be."""

SUMMARY = "Measure time and memory of graphs, a server, a scan from its file on, or a GPU."
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
