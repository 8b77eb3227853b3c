#!/usr/bin/env python3
"""Prints a table of matmuls with quantised weights: GMAC/s of one thread by form of the weights and instruction set.

    python benches/matmul_table.py [--bench BINARY] [--llama LIBRARIES]... [--shape 5120,17920] [--rows 1,8,128]
                                   [--sets amx,avx512vnni,avxvnni,avx2] [--forms int4/32,...] [--rounds 5]

phi4d's kernel is timed by `cargo bench -p phi4d-matmul` (or BINARY, which that built), with the rounding of its
activations; ONNX Runtime's MatMulNBits at accuracy level 4, as exports have it, by the packages onnx and onnxruntime;
llama.cpp's by the shared libraries of a build (LIBRARIES is the folder of libggml-cpu.so; a second build adds a
column), with the weights in the layout that is fastest of those that it offers. Each round runs all of them one after
the other; a figure is the median of the rounds, each the fastest of several runs. Times are the thread's processor
time, so that other work disturbs them less.
"""

import argparse
import ctypes
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

Key = tuple[str, str, int]
# Name: bits, block, zero points, and llama.cpp's type with as many bits a weight.
FORMS = {
    "int4/16": (4, 16, False, None),
    "int4/32": (4, 32, False, ("Q4_0", 2)),
    "int4/64": (4, 64, False, None),
    "int4/128": (4, 128, False, None),
    "int4/256": (4, 256, False, None),
    "int4/32 zeros": (4, 32, True, ("Q4_1", 3)),
    "int4/128 zeros": (4, 128, True, None),
    "int8/32": (8, 32, False, ("Q8_0", 8)),
    "int8/128": (8, 128, False, None),
    "int8/32 zeros": (8, 32, True, None),
}


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs."""
    work()
    began, best, runs = time.thread_time(), float("inf"), 0
    while runs < 3 or (time.thread_time() - began < 0.5 and runs < 1000):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
        runs += 1
    return best


def own(arguments: argparse.Namespace, name: str) -> dict[Key, float]:
    bits, block, zeros, _ = FORMS[name]
    command = [arguments.bench] if arguments.bench else ["cargo", "bench", "-q", "-p", "phi4d-matmul",
                                                         "--bench", "matmul", "--"]
    command += [arguments.shape, f"rows={arguments.rows}", f"bits={bits}", f"block={block}"]
    command += ["zeros"] * zeros + [f"isa={name}" for name in arguments.sets.split(",")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = re.compile(r"^(\w+) +rows +(\d+): +([\d.]+) GMAC/s.*rounding ([\d.]+)% of it", re.MULTILINE)
    return {(name, f"phi4d {kernel}", int(rows)): float(rate) / (1 + float(rounding) / 100)
            for kernel, rows, rate, rounding in line.findall(output)}


def onnx_runtime(arguments: argparse.Namespace, name: str) -> dict[Key, float]:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    bits, block, zeros, _ = FORMS[name]
    k, n = map(int, arguments.shape.split(","))
    blocks = -(-k // block)
    random = np.random.default_rng(1)
    tensors = {"b": random.integers(0, 256, (n, blocks, block * bits // 8), np.uint8),
               "scales": random.uniform(-0.01, 0.01, (n, blocks)).astype(np.float32)}
    if zeros:
        tensors["zeros"] = random.integers(0, 256, (n, -(-blocks * bits // 8)), np.uint8)
    node = helper.make_node("MatMulNBits", ["a", *tensors], ["y"], domain="com.microsoft", K=k, N=n, bits=bits,
                            block_size=block, accuracy_level=4)
    of_rows = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["rows", size])
               for value, size in (("a", k), ("y", n))]
    graph = helper.make_graph([node], "matmul", of_rows[:1], of_rows[1:],
                              [numpy_helper.from_array(tensor, label) for label, tensor in tensors.items()])
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    rates = {}
    for rows in map(int, arguments.rows.split(",")):
        values = random.uniform(-1, 1, (rows, k)).astype(np.float32)
        rates[name, "ONNX Runtime", rows] = rows * k * n / 1e9 / fastest(lambda: session.run(None, {"a": values}))
    return rates


class Init(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Ggml:
    """What is needed of ggml's C interface. All but sizes are pointers."""

    def __init__(self, folder: str) -> None:
        names = ("libggml-base.so", "libggml-cpu.so", "libggml.so")
        self.libraries = [ctypes.CDLL(str(Path(folder) / name), ctypes.RTLD_GLOBAL) for name in names]

    def call(self, name: str, *arguments: object, returns: object = ctypes.c_void_p) -> object:
        function = next(getattr(library, name) for library in self.libraries if hasattr(library, name))
        function.restype = returns
        return function(*arguments)

    def pointer(self, name: str, *arguments: object) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.call(name, *arguments))

    def places(self, device: ctypes.c_void_p) -> list[ctypes.c_void_p]:
        """Where weights may lie: as they are, and in the layouts that the processor's code prefers."""
        places = [self.pointer("ggml_backend_cpu_buffer_type")]
        registry = self.pointer("ggml_backend_dev_backend_reg", device)
        address = self.call("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
        index = 0
        while extra and extra[index]:
            places.append(ctypes.c_void_p(extra[index]))
            index += 1
        return places

    def context(self) -> ctypes.c_void_p:
        return self.pointer("ggml_init", Init(1 << 20, None, True))


# How many layouts a build of llama.cpp may offer: as the file has them, repacked, AMX's, and others' libraries.
PLACES = 5


def llama_cpp(arguments: argparse.Namespace, name: str, folder: str, place: int) -> dict[Key, float]:
    """With the weights in one of its layouts; nothing if there is no such layout, or it has none for the type."""
    import numpy as np

    bits_type = FORMS[name][3]
    if bits_type is None:
        return {}
    ggml, (_, number) = Ggml(folder), bits_type
    k, n = map(int, arguments.shape.split(","))
    sizes = [ctypes.c_int64(k), ctypes.c_int64(n)]
    weights = np.random.default_rng(1).uniform(-1, 1, (n, k)).astype(np.float32)
    row_bytes = ggml.call("ggml_row_size", ctypes.c_int(number), sizes[0], returns=ctypes.c_size_t)
    packed = ctypes.create_string_buffer(row_bytes * n)
    ggml.call("ggml_quantize_chunk", ctypes.c_int(number), ctypes.c_void_p(weights.ctypes.data), packed,
              ctypes.c_int64(0), sizes[1], sizes[0], None, returns=ctypes.c_size_t)
    backend = ggml.pointer("ggml_backend_cpu_init")
    ggml.call("ggml_backend_cpu_set_n_threads", backend, ctypes.c_int(1), returns=None)
    device = ggml.pointer("ggml_backend_get_device", backend)
    plain, *others = ggml.places(device)
    held, is_set = ggml.context(), False
    matrix = ggml.pointer("ggml_new_tensor_2d", held, ctypes.c_int(number), *sizes)
    taken = [plain, *others][place:place + 1]
    if not taken or not ggml.pointer("ggml_backend_alloc_ctx_tensors_from_buft", held, *taken):
        return {}
    rates: dict[Key, float] = {}
    for rows in map(int, arguments.rows.split(",")):
        values = np.random.default_rng(2).uniform(-1, 1, (rows, k)).astype(np.float32)
        work = ggml.context()
        given = ggml.pointer("ggml_new_tensor_2d", work, ctypes.c_int(0), sizes[0], ctypes.c_int64(rows))
        product = ggml.pointer("ggml_mul_mat", work, matrix, given)
        graph = ggml.pointer("ggml_new_graph", work)
        ggml.call("ggml_build_forward_expand", graph, product, returns=None)
        ggml.pointer("ggml_backend_alloc_ctx_tensors_from_buft", work, plain)
        if not ggml.call("ggml_backend_dev_supports_op", device, product, returns=ctypes.c_bool):
            continue
        if not is_set:
            ggml.call("ggml_backend_tensor_set", matrix, packed, ctypes.c_size_t(0),
                      ctypes.c_size_t(row_bytes * n), returns=None)
            is_set = True
        ggml.call("ggml_backend_tensor_set", given, ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(0),
                  ctypes.c_size_t(values.nbytes), returns=None)
        seconds = fastest(lambda: ggml.call("ggml_backend_graph_compute", backend, graph, returns=ctypes.c_int))
        rates[name, f"llama.cpp {Path(folder).parent.name}", rows] = rows * k * n / 1e9 / seconds
    return rates


def apart(function: Callable[..., dict[Key, float]], *arguments: object) -> dict[Key, float]:
    """The result of a call in a process of its own, whose memory and libraries go with it."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except BrokenProcessPool:
        print(f"{function.__name__} crashed with {arguments[1:]}, which is left out", file=sys.stderr)
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench")
    parser.add_argument("--llama", action="append", default=[])
    parser.add_argument("--shape", default="5120,17920")
    parser.add_argument("--rows", default="1,8,128")
    parser.add_argument("--sets", default="amx,avx512vnni,avxvnni,avx2")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    found: dict[Key, list[float]] = {}
    forms = arguments.forms.split(",")
    for _ in range(arguments.rounds):
        for name in forms:
            parts = [own(arguments, name), apart(onnx_runtime, arguments, name)]
            parts += [apart(llama_cpp, arguments, name, folder, place)
                      for folder in arguments.llama for place in range(PLACES) if FORMS[name][3]]
            best: dict[Key, float] = {}
            for part in parts:
                for key, rate in part.items():
                    best[key] = max(best.get(key, 0.0), rate)
            for key, rate in best.items():
                found.setdefault(key, []).append(rate)
    columns = list(dict.fromkeys(key[1] for key in found))
    print(f"GMAC/s of one thread, K,N = {arguments.shape}, medians of {arguments.rounds} rounds\n")
    print("| weights | rows |", " | ".join(columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for name in forms:
        for rows in map(int, arguments.rows.split(",")):
            rates = [found.get((name, column, rows)) for column in columns]
            print(f"| {name} | {rows} |", " | ".join(f"{statistics.median(r):.0f}" if r else "-" for r in rates), "|")


if __name__ == "__main__":
    main()
