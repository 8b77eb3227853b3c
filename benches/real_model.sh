#!/usr/bin/env bash
# The README's comparison on a real model, SmolLM2-135M with Phi-4's graph: phi4d, onnxruntime-genai and
# llama.cpp on the same weights, on this machine, as a table in Markdown.
#
#   benches/real_model.sh [OPTIONS OF benches/real_model.py]
#
# What it needs is made in target/real-model-bench once: onnxruntime-genai and build tools from the Python
# index, llama.cpp from the source package of llama-cpp-python (some ten minutes on two cores; LLAMA_CPP names a
# folder with its programs that is there already), and the weights as Q4_0. phi4d is built for release. Nothing
# else should run while it measures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
made=$PWD/target/real-model-bench
llama=llama_cpp_python-0.3.36
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

packaging/need python3 python3-venv g++
REAL_MODEL=required tests/real_model/setup
mkdir -p "$made"
PATH=$made/venv/bin:$PATH
if [ ! -e "$made/venv/.made" ]; then
    python3 -m venv "$made/venv"
    pip install --quiet --requirement models/smollm-requirements.txt onnxruntime-genai==0.18.0 \
        cmake ninja scikit-build-core
    touch "$made/venv/.made"
fi
if [ -z "${LLAMA_CPP:-}" ] && [ ! -e "$made/build/bin/llama-batched-bench" ]; then
    pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$made" \
        "llama-cpp-python==${llama##*-}"
    echo "$llama_sha256 $made/$llama.tar.gz" | sha256sum --check --quiet
    tar --extract --gzip --file "$made/$llama.tar.gz" --directory "$made"
    cmake -S "$made/$llama/vendor/llama.cpp" -B "$made/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF >/dev/null
    ninja -C "$made/build" --quiet llama-bench llama-batched-bench
fi
cargo build --locked --release --bin phi4d
exec python3 benches/real_model.py "${CARGO_TARGET_DIR:-target}/real-model" "$made/q4_0.gguf" \
    --llama-cpp "${LLAMA_CPP:-$made/build/bin}" "$@"
