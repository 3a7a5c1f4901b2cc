#!/usr/bin/env python3
"""First figures of CT-CLIP's graphs on a GPU, on a machine without a package index.

Ceilings of the machine, parity of the typed twins, latencies, ONNX Runtime with CUDA. Needs one
NVIDIA GPU, torch, onnx, onnxscript, rich and numpy, and nothing of this project installed. From the
project's root:

    PYTHONPATH=client/src:export/src:benchmarks/src python3 benchmarks/gpu/first_run.py --out OUT
    … --device cpu --small          a rehearsal without a GPU, a minute
    … --only machine,model,parity   some phases; all but machine and transfer need `model`

ONNX Runtime with CUDA, if the machine has none: pack_ort_gpu.sh beside this file, unpacked into a
folder of PYTHONPATH. Every phase writes OUT/PHASE.json at once and never stops the next one. Random
weights: times are real, findings are not.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

import numpy as np
import torch
import torch.nn.functional as F

PHASES = "machine,model,parity,latency,onnx,transfer,compile"
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the JSON files")
parser.add_argument("--only", default=PHASES, help=f"phases, of {PHASES}")
parser.add_argument("--device", default="cuda")
parser.add_argument("--small", action="store_true", help="a small geometry")
parser.add_argument("--runs", type=int, default=30, help="of what is timed")
parser.add_argument(
    "--ct", type=pathlib.Path, help="of pack_ct.py; without it a chest is drawn instead"
)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
DEVICE, CUDA = torch.device(args.device), args.device == "cuda"
STARTED = time.time()
STATE = {}


def tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def sync():
    if CUDA:
        torch.cuda.synchronize()


def median_ms(work, runs=None, warmup=3):
    """Median and spread in ms: CUDA events on a GPU, the clock elsewhere."""
    runs = runs or args.runs
    for _ in range(warmup):
        work()
    sync()
    times = []
    for _ in range(runs):
        if CUDA:
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            work()
            b.record()
            torch.cuda.synchronize()
            times.append(a.elapsed_time(b))
        else:
            t = time.perf_counter()
            work()
            times.append((time.perf_counter() - t) * 1000)
    times.sort()
    return {
        "p50": statistics.median(times),
        "least": times[0],
        "p90": times[math.ceil(len(times) * 0.9) - 1],
        "n": runs,
    }


def machine():
    out = {"torch": torch.__version__, "python": sys.version.split()[0], "cores": os.cpu_count()}
    if CUDA:
        p = torch.cuda.get_device_properties(0)
        out |= {
            "gpu": p.name,
            "memory_gib": p.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "sms": p.multi_processor_count,
        }
        query = "--query-gpu=name,driver_version,clocks.sm,power.limit"
        smi = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],  # noqa: S607
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        out["nvidia_smi"] = smi.stdout.strip()
        out["libpython"] = [
            str(path)
            for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/local/lib")
            for path in pathlib.Path(folder).glob("libpython3*")
        ]
    n = 8192 if CUDA else 512
    for name, dtype, fast in (
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        tf32(fast)
        a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
        out[f"matmul_{name}_tflops"] = 2 * n**3 / median_ms(lambda: a @ b, 10)["p50"] / 1e9
    tf32(False)
    x = torch.empty(2**28 if CUDA else 2**22, dtype=torch.float32, device=DEVICE)
    y = torch.empty_like(x)
    out["device_copy_gb_s"] = 2 * x.nbytes / median_ms(lambda: y.copy_(x), 10)["p50"] / 1e6
    return out


def base_chest():
    """VOXELS (1, 1, 120, 240, 240) in [-1, 1] of the public chest CT, or of a drawn one."""
    if "chest" not in STATE:
        if args.ct is not None:
            stored = np.load(args.ct)["voxels"]
            voxels = torch.from_numpy(stored).float()[None, None] / 127.5 - 1
        else:
            from ctclip_client.contract import Geometry
            from ctclip_export.model.preprocess import preprocess
            from ctclip_export.samples.phantom import chest_phantom

            geometry = Geometry((120, 240, 240), (3.0, 1.5, 1.5))
            drawn = chest_phantom(geometry)
            voxels = preprocess(drawn.voxels, drawn.spacing_mm, drawn.rescale, geometry)
        STATE["chest"] = voxels.to(DEVICE)
    return STATE["chest"]


def chest(seed, shape):
    """CT-like VOXELS (1, 1, D, H, W): the chest turned, shifted, scaled, with noise."""
    g = torch.Generator().manual_seed(seed)

    def u(low, high):
        return float(torch.rand((), generator=g) * (high - low) + low)

    t, scale = math.radians(u(-10, 10)), u(0.9, 1.1)
    cos, sin = scale * math.cos(t), scale * math.sin(t)
    rows = [[cos, -sin, 0, u(-0.1, 0.1)], [sin, cos, 0, u(-0.1, 0.1)], [0, 0, scale, u(-0.1, 0.1)]]
    turn = torch.tensor(rows, device=DEVICE)
    grid = F.affine_grid(turn[None], [1, 1, *shape], align_corners=False)
    v = F.grid_sample(base_chest() + 1, grid, align_corners=False) - 1
    noise = torch.randn(v.shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)
    return (v + noise * u(0.005, 0.03)).clamp_(-1, 1)


def size():
    """Geometry, config, CTs that the codebook is fitted to, rounds of fitting."""
    from ctclip_client.contract import Geometry
    from ctclip_export.model import ModelConfig, TextConfig, VisionConfig

    if not args.small:
        return Geometry(), ModelConfig(), 8, 3
    shape = (60, 100, 120)
    vision = VisionConfig(
        volume_shape=shape, width=64, heads=4, head_width=16, hidden=170,
        spatial_layers=2, temporal_layers=2, codebook_size=256, embedding_size=32,
    )  # fmt: skip
    text = TextConfig(width=48, layers=2, heads=4, hidden=96)
    return Geometry(shape, (6.0, 3.6, 3.0)), ModelConfig(vision, text), 12, 8


def tokens_of(vision, voxels):
    _, temporal = vision.encode(vision.embed_patches(voxels))
    return temporal.flatten(0, 1)


@torch.no_grad()
def model():
    from ctclip_bench.demo.codebook import code_usage, fit_codebook
    from ctclip_bench.demo.random_checkpoint import random_model

    geometry, config, variations, rounds = size()
    shape = geometry.volume_shape

    def fit(vision):
        vision.to(DEVICE)
        tokens = [tokens_of(vision, chest(1000 + i, shape)) for i in range(variations)]
        vision.cpu()
        return fit_codebook(torch.cat(tokens), config.vision.codebook_size, 20, rounds).cpu()

    started = time.time()
    reference = random_model(config, 20, fit)
    STATE.update(reference=reference, geometry=geometry, shape=shape)
    on_device = __import__("copy").deepcopy(reference).to(DEVICE)
    STATE["device_model"] = on_device
    ids = torch.randint(
        1000 if config.text.vocabulary_size > 2000 else 5,
        config.text.vocabulary_size,
        (36, 12),
        generator=torch.Generator().manual_seed(1),
    )
    STATE["ids"] = ids
    STATE["bank"] = on_device.text(ids.to(DEVICE), torch.ones_like(ids).to(DEVICE))
    tokens = tokens_of(on_device.vision, chest(1, shape)).cpu()
    usage = code_usage(tokens, reference.vision.codebook, variations * len(tokens))
    return {
        "seconds": time.time() - started,
        "used_codes": usage.used,
        "perplexity": usage.perplexity,
        "margins": usage.margin_percentiles,
    }


@torch.no_grad()
def parity():
    from ctclip_export.parity.judge import bounds_for, judge
    from ctclip_export.parity.reference import answer_in_pytorch
    from ctclip_export.precision.typed_twin import typed

    tf32(False)
    reference, on_device, shape = STATE["reference"], STATE["device_model"], STATE["shape"]
    volumes = [chest(seed, shape) for seed in range(4)]
    codes = int(np.prod(reference.config.vision.token_shape))
    codebook = reference.vision.unit_codebook.T
    out = {}

    def answers(model, vision, some):
        device = next(model.parameters()).device
        bank = STATE["bank"].to(device)
        return [answer_in_pytorch(model, vision, bank, each.to(device)) for each in some]

    base = answers(on_device, on_device.vision, volumes)

    def compare(name, got, precision):
        expected, bounds = base[: len(got)], bounds_for(precision, codes)
        out[name] = judge(name, got, expected, bounds, codebook=codebook).as_json()

    on_cpu = answers(reference, reference.vision, volumes[:1])
    compare("fp32, CPU against the device", on_cpu, "fp32")
    if CUDA:
        tf32(True)
        compare("fp32 with TF32", answers(on_device, on_device.vision, volumes), "fp32")
        tf32(False)
    STATE["twins"] = {p: typed(reference.vision, p).to(DEVICE) for p in ("fp16", "bf16")}
    for precision, twin in STATE["twins"].items():
        compare(f"{precision} twin", answers(on_device, twin, volumes), precision)
    return out


@torch.no_grad()
def latency():
    from torch.utils.flop_counter import FlopCounterMode

    tf32(False)
    out, shape, vision = {}, STATE["shape"], STATE["device_model"].vision
    with FlopCounterMode(display=False) as counter:
        vision(chest(0, shape))
    out["flop_vision_without_search_and_conv_caveats"] = counter.get_total_flops()
    models = {"fp32": vision, **STATE.get("twins", {})}
    for p, m in models.items():
        for batch in (1, 2, 4, 8):
            x = torch.cat([chest(s, shape) for s in range(batch)])
            try:
                if CUDA:
                    torch.cuda.reset_peak_memory_stats()
                out[f"vision {p} eager batch {batch}"] = median_ms(lambda: m(x)) | {
                    "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if CUDA else None
                }
                if CUDA and batch in (1, 4):
                    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
                    side.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(side):
                        m(x)
                    torch.cuda.current_stream().wait_stream(side)
                    with torch.cuda.graph(graph):
                        m(x)
                    out[f"vision {p} CUDA graph batch {batch}"] = median_ms(graph.replay)
                    del graph
            except Exception as error:
                out[f"vision {p} batch {batch}"] = repr(error)[:300]
    ids = STATE["ids"].to(DEVICE)
    text = STATE["device_model"].text
    out["text 36 prompts fp32 eager"] = median_ms(lambda: text(ids, torch.ones_like(ids)))
    t = tokens_of(vision, chest(0, shape))
    out["code search fp32"] = median_ms(lambda: vision.nearest_codes(t))
    unit, book = F.normalize(t, dim=-1).bfloat16(), vision.unit_codebook.bfloat16()
    out["code search bf16 products, top 8"] = median_ms(lambda: (unit @ book.T).topk(8, dim=-1))
    for width in (1365, 1368, 1376, 1408):
        a, w = (
            torch.randn(len(t), 512, device=DEVICE, dtype=torch.bfloat16),
            torch.randn(2 * width, 512, device=DEVICE, dtype=torch.bfloat16),
        )
        h, v = (
            torch.randn(len(t), width, device=DEVICE, dtype=torch.bfloat16),
            torch.randn(512, width, device=DEVICE, dtype=torch.bfloat16),
        )
        out[f"feed-forward products bf16, width {width}"] = median_ms(
            lambda: (F.linear(a, w), F.linear(h, v))
        )
    return out


def onnx():
    import onnx as onnx_library
    import onnxruntime as ort

    from ctclip_export.graphs.encoders import trace_text, trace_vision
    from ctclip_export.graphs.preprocess import preprocess_graph
    from ctclip_export.precision.typed_twin import typed

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    out = {"onnxruntime": ort.__version__, "providers": ort.get_available_providers()}
    folder = pathlib.Path(tempfile.mkdtemp())
    reference, shape = STATE["reference"], STATE["shape"]
    voxels = chest(0, shape)
    codes = STATE["device_model"].vision(voxels)[2].cpu().numpy()

    def session(proto, name, **provider):
        path = folder / f"{name}.onnx"
        onnx_library.save(proto, path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / name)
        providers = ([("CUDAExecutionProvider", provider)] if CUDA else []) + [
            "CPUExecutionProvider"
        ]
        return ort.InferenceSession(str(path), options, providers=providers)

    def measure(name, s, feed, runs=10):
        row = {}
        got = s.run(None, feed)
        times = []
        for _ in range(runs):
            t = time.perf_counter()
            s.run(None, feed)
            times.append((time.perf_counter() - t) * 1000)
        row["host_to_host_ms"] = statistics.median(times)
        if CUDA:
            io = s.io_binding()
            kept = {k: torch.from_numpy(v).to(DEVICE).contiguous() for k, v in feed.items()}
            for k, t in kept.items():
                io.bind_input(k, "cuda", 0, feed[k].dtype, tuple(t.shape), t.data_ptr())
            for o in s.get_outputs():
                io.bind_output(o.name, "cuda")
            try:
                row["on_device"] = median_ms(lambda: s.run_with_iobinding(io), runs)
            except Exception as error:
                row["on_device"] = repr(error)[:300]
        events = [
            e
            for e in json.loads(pathlib.Path(s.end_profiling()).read_text())
            if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
        ]
        where = {}
        for e in events:
            where.setdefault(e["args"].get("provider"), {}).setdefault(e["args"].get("op_name"), 0)
            where[e["args"].get("provider")][e["args"].get("op_name")] += 1
        row["nodes_by_provider"] = {p: sum(o.values()) for p, o in where.items()}
        row["ops_on_cpu"] = where.get("CPUExecutionProvider") if CUDA else None
        out[name] = row
        return got

    def attempt(name, work):
        try:
            work()
        except Exception as error:
            out[name] = repr(error)[:600]
        (args.out / "onnx.part.json").write_text(json.dumps(out, default=str, indent=1))

    def preprocess():
        from ctclip_export.model.preprocess import preprocess as by_torch

        geometry = STATE["geometry"]
        s = session(preprocess_graph(geometry), "preprocess")
        n = (60, 128, 128) if args.small else (320, 512, 512)
        v = np.random.default_rng(0).integers(-1024, 1024, n).astype(np.int16)
        spacing = (1.0, 0.7, 0.7)
        got = measure(
            "preprocess",
            s,
            {
                "VOLUME": v,
                "SPACING": np.array(spacing, np.float64),
                "RESCALE": np.array([1, 0], np.float32),
            },
            5,
        )[0]
        out["preprocess"]["largest_difference"] = float(
            np.abs(got - by_torch(v, spacing, (1.0, 0.0), geometry).numpy()).max()
        )

    def vision(precision, name, **provider):
        m = reference.vision if precision == "fp32" else typed(reference.vision, precision)
        proto = STATE.get(("proto", precision)) or trace_vision(m, precision)
        STATE[("proto", precision)] = proto
        s = session(proto, name.replace(" ", "_"), **provider)
        if precision == "fp32" and provider.get("use_tf32") == "0":
            bad = np.full_like(voxels.cpu().numpy(), np.nan)
            marked = s.run(None, {"VOXELS": bad})
            out["guard"] = (
                "a bad row is marked"
                if np.isnan(marked[0]).all() and (marked[2] == -1).all()
                else "NaN was answered"
            )
        got = dict(
            zip(
                [o.name for o in s.get_outputs()],
                measure(name, s, {"VOXELS": voxels.cpu().numpy()}),
                strict=True,
            )
        )
        out[name]["codes_agree"] = float((got["CODES"] == codes).mean())

    def text():
        s = session(trace_text(reference.text), "text")
        ids = STATE["ids"].numpy()
        got = measure(
            "text 36 prompts", s, {"INPUT_IDS": ids, "ATTENTION_MASK": np.ones_like(ids)}
        )[0]
        out["text 36 prompts"]["largest_difference"] = float(
            np.abs(got - STATE["bank"].cpu().numpy()).max()
        )

    attempt("preprocess", preprocess)
    attempt(
        "vision fp32, TF32 off",
        lambda: vision(
            "fp32", "vision fp32, TF32 off", use_tf32="0", cudnn_conv_algo_search="HEURISTIC"
        ),
    )
    if CUDA:
        attempt(
            "vision fp32, TF32 on",
            lambda: vision(
                "fp32", "vision fp32, TF32 on", use_tf32="1", cudnn_conv_algo_search="HEURISTIC"
            ),
        )
    attempt(
        "vision fp16",
        lambda: vision("fp16", "vision fp16", use_tf32="0", cudnn_conv_algo_search="HEURISTIC"),
    )
    if CUDA:
        attempt(
            "vision bf16",
            lambda: vision("bf16", "vision bf16", use_tf32="0", cudnn_conv_algo_search="HEURISTIC"),
        )
    attempt("text", text)
    return out


def transfer():
    if not CUDA:
        return {"skipped": "no GPU"}
    out = {}
    for name, nbytes in (("scan 512x512x320 int16", 168_000_000), ("VOXELS float32", 221_184_000)):
        for kind in ("pageable", "pinned"):
            host = torch.empty(nbytes // 4, pin_memory=kind == "pinned")
            device = torch.empty(nbytes // 4, device=DEVICE)
            out[f"{name}, {kind}, host to device"] = median_ms(lambda: device.copy_(host), 10)
            out[f"{name}, {kind}, device to host"] = median_ms(lambda: host.copy_(device), 10)
    return out


@torch.no_grad()
def compiled():
    if not CUDA:
        return {"skipped": "no GPU"}
    out, x = {}, chest(0, STATE["shape"])
    for p in ("bf16", "fp16"):
        started = time.time()
        m = torch.compile(
            STATE["twins"][p], mode="max-autotune-no-cudagraphs" if p == "fp16" else None
        )
        m(x)
        sync()
        out[f"vision {p} torch.compile batch 1"] = median_ms(lambda: m(x)) | {
            "compile_seconds": time.time() - started
        }
        (args.out / "compile.part.json").write_text(json.dumps(out, indent=1))
        if time.time() - STARTED > 450:
            break
    return out


for phase in args.only.split(","):
    began = time.time()
    try:
        result = globals()["compiled" if phase == "compile" else phase]()
    except Exception:
        result = {"failed": traceback.format_exc()[-3000:]}
    result = {
        "phase": phase,
        "seconds": time.time() - began,
        "small": args.small,
        "device": args.device,
        "ct": "drawn" if args.ct is None else args.ct.name,
        **(result if isinstance(result, dict) else {}),
    }
    (args.out / f"{phase}.json").write_text(json.dumps(result, indent=1, default=str))
    if "failed" not in result:
        (args.out / f"{phase}.part.json").unlink(missing_ok=True)
    print(
        f"[{time.time() - STARTED:6.1f} s] {phase}: {'FAILED' if 'failed' in result else 'done'}",
        flush=True,
    )
    print(json.dumps(result, default=str)[:1500], flush=True)
