"""Judges what lm-eval says of a local task by the model's own logits.

    lm_eval_scores.py MODEL_FOLDER OUTPUT

OUTPUT is the folder that `lm_eval run --log_samples --output_path` wrote: the log-likelihood of each choice, whether it
is the likeliest text, and each question's scores. All of them are computed here from the folder's tokenizer and the
graph, without the daemon. Prints how many choices were compared, and the largest difference for each token.
"""

import json
import pathlib
import sys

import numpy
from onnx_model import Model
from tokenizers import Tokenizer

FOLDER, OUTPUT = map(pathlib.Path, sys.argv[1:])
MODEL, TOKENIZER = Model(FOLDER), Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
#: Of a continuation's log-probability for each token: activations are rounded to int8, each kernel its way.
NOISE = 0.25


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def scored(context: str, continuation: str) -> tuple[float, float, int]:
    """The sum of log-probabilities, by how much the likeliest text is ahead at most, and the number of tokens."""
    before, whole = ids_of(context), ids_of(context + continuation)
    said = whole[len(before):]
    rows = MODEL.logits_of(whole)[len(before) - 1 : -1]
    rows = rows - rows.max(axis=1, keepdims=True)
    rows = rows - numpy.log(numpy.exp(rows).sum(axis=1, keepdims=True))
    chosen = rows[numpy.arange(len(said)), said]
    return float(chosen.sum()), float((rows.max(axis=1) - chosen).max()), len(said)


def fail(sample: dict, what: str) -> None:
    raise SystemExit(f"{what}: {json.dumps(sample)}")


def winner(scores: list[float], noise: float) -> int | None:
    """The best one's index, if the next one is worse by more than the noise."""
    order = numpy.argsort(scores)
    return int(order[-1]) if scores[order[-1]] - scores[order[-2]] > noise else None


compared = judged = 0
largest = 0.0
for line in next(OUTPUT.rglob("samples_*.jsonl")).read_text().splitlines():
    sample = json.loads(line)
    sums, tokens = [], []
    for asked, [[found, greedy]] in zip(sample["arguments"].values(), sample["resps"], strict=True):
        expected, behind, count = scored(asked["arg_0"], asked["arg_1"])
        difference = abs(float(found) - expected) / count
        if difference > NOISE:
            fail(sample, f"{asked}: {found}, expected {expected}")
        if abs(behind) > NOISE and (greedy == "True") != (behind == 0):
            fail(sample, f"{asked}: greedy is {greedy}, the likeliest is ahead by {behind}")
        largest = max(largest, difference)
        compared += 1
        sums.append(expected)
        tokens.append(count)
    lengths = [len(choice) for choice in sample["doc"]["choices"]]
    for metric, divided_by in [("acc", [1] * len(sums)), ("acc_norm", lengths)]:
        scores = [score / by for score, by in zip(sums, divided_by)]
        noise = max(2 * NOISE * count / by for count, by in zip(tokens, divided_by))
        best = winner(scores, noise)
        if best is None:
            continue
        judged += 1
        if sample[metric] != float(best == int(sample["target"])):
            fail(sample, f"{metric} is {sample[metric]}, the best of {scores} is {best}")
print(json.dumps({"compared": compared, "judged": judged, "largest": largest}))
