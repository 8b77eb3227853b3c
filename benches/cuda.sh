#!/bin/sh
# phi4d on an NVIDIA GPU, beside onnxruntime-genai on the same folder: makes a model of Phi-4's shape with random
# weights, checks what the GPU makes of it against the processor, and compares decode, batch and prefill, in turns.
# Prints medians and ratios.
#
#     benches/cuda.sh RUNTIME_FOLDER [WORK_FOLDER]
#
# RUNTIME_FOLDER is the capi folder of the Python package onnxruntime-gpu: ONNX Runtime and its CUDA provider.
# Needs: cargo; an NVIDIA GPU, its driver, and CUDA and cuDNN of the kind that onnxruntime-gpu names; Python with
# numpy and onnx; for the comparison onnxruntime-genai-cuda (else there are phi4d's figures only). All offline.
# The model takes 9 GB of disk and of the GPU's memory; the check on the processor as much of the machine's.
#
# By the environment: PROVIDER (cuda), PRESET (phi4: 40 layers), LAYERS, ROUNDS (3), PROMPTS (128,512,2048),
# BATCHES (2,4,8), TOKENS (32), LIMIT (0.05), PARITY_PROMPT (64), OPTIONS (of the provider, such as graphs=true),
# PYTHON (python3), PHI4D (built by cargo). The script itself is proved on a processor by
#     PROVIDER=cpu PRESET=demo ROUNDS=1 PROMPTS=16,64 benches/cuda.sh .runtime
set -eu
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 64; }
runtime_folder=$1
work=${2:-target/cuda-bench}
provider=${PROVIDER:-cuda}
preset=${PRESET:-phi4}
python=${PYTHON:-python3}
export ORT_DISABLE_TELEMETRY=1

die() { echo "benches/cuda.sh: $*" >&2; exit 69; }

# The library's name has its version at the end in the Python package.
library=
for file in "$runtime_folder"/libonnxruntime.so "$runtime_folder"/libonnxruntime.so.[0-9]*; do
    if [ -e "$file" ]; then library=$file; break; fi
done
[ -n "$library" ] || die "no libonnxruntime.so in $runtime_folder"
"$python" -c 'import numpy, onnx' || die "$python needs the packages numpy and onnx"
if [ "$provider" = cuda ]; then
    command -v nvidia-smi >/dev/null || die "no nvidia-smi: the driver is missing"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
if [ -z "${PHI4D:-}" ]; then
    cargo build --release --quiet
    PHI4D=target/release/phi4d
fi

target=$provider
case $provider in directml) target=dml ;; cpu) target=${TARGET:-cpu} ;; esac
model=$work/$preset-$target${LAYERS:+-$LAYERS}
if [ ! -e "$model/genai_config.json" ]; then
    echo "== a model of random weights: $model"
    "$python" models/make_random.py "$model.new" --preset "$preset" --for "$target" ${LAYERS:+--layers "$LAYERS"}
    if [ "$preset" = demo ]; then
        cp models/demo/tokenizer*.json models/demo/special_tokens_map.json "$model.new"
    else
        "$python" models/make_phi4_tokenizer.py "$model.new"
    fi
    mv "$model.new" "$model"
fi
settings="--runtime-library $library --provider-options '${OPTIONS:-}'"

echo "== what it is, and where its nodes run"
"$PHI4D" inspect "$model" --nodes --provider "$provider" --runtime-library "$library" \
    --provider-options "${OPTIONS:-}"

echo "== $provider against the processor"
"$python" benches/provider_parity.py "$model" --phi4d "$PHI4D" --provider "$provider" \
    --options "${OPTIONS:-}" --prompt "${PARITY_PROMPT:-64}" --limit "${LIMIT:-0.05}" --settings "--runtime-library $library"

if "$python" -c 'import onnxruntime_genai' 2>/dev/null; then
    echo "== beside onnxruntime-genai, medians of ${ROUNDS:-3} rounds in turns"
    "$python" benches/compare_genai.py "$model" --phi4d "$PHI4D" --rounds "${ROUNDS:-3}" \
        --prompts "${PROMPTS:-128,512,2048}" --batches "${BATCHES:-2,4,8}" --tokens "${TOKENS:-32}" \
        --settings "--provider $provider $settings"
else
    echo "== phi4d alone: $python has no onnxruntime_genai"
    "$PHI4D" bench --model "$model" --rounds "${ROUNDS:-3}" --prompts "${PROMPTS:-128,512,2048}" \
        --tokens "${TOKENS:-32}" --provider "$provider" --runtime-library "$library" \
        --provider-options "${OPTIONS:-}"
fi
