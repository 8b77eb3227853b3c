"""Embeds texts by OpenAI's SDK and by Ollama's package, as a front end for retrieval does; prints the vectors.

    embeddings_sdk.py URL TEXTS

TEXTS is a list in JSON.
"""

import json
import sys

from ollama import Client, ResponseError
from openai import BadRequestError, OpenAI

url, texts = sys.argv[1], json.loads(sys.argv[2])
openai = OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
ollama = Client(host=url)

kinds = {model.id: model.capabilities for model in openai.models.list().data}
name = next(id for id, kind in kinds.items() if kind == ["embedding"])
assert ollama.show(name).capabilities == ["embedding"]
assert name in [model.model for model in ollama.list().models]

# The SDK asks for base64 unless a format is named.
encoded = openai.embeddings.create(model=name, input=texts)
numbers = openai.embeddings.create(model=name, input=texts, encoding_format="float")
single = openai.embeddings.create(model=name, input=texts[0])
short = openai.embeddings.create(model=name, input=texts, dimensions=8)
assert encoded.usage.prompt_tokens == encoded.usage.total_tokens > len(texts)
assert [item.index for item in encoded.data] == list(range(len(texts)))
assert single.data[0].embedding == encoded.data[0].embedding
assert len(short.data[0].embedding) == 8
embedded = ollama.embed(model=name, input=texts)
assert embedded.total_duration > 0 and embedded.prompt_eval_count == encoded.usage.prompt_tokens
one = ollama.embeddings(model=name, prompt=texts[0])
long = "word " * 1000
assert len(ollama.embed(model=name, input=long).embeddings) == 1
try:
    openai.embeddings.create(model=name, input=[texts[0], long])
except BadRequestError as caught:
    refused = [caught.param, caught.message]
try:
    ollama.embed(model=name, input=long, truncate=False)
except ResponseError as caught:
    status = caught.status_code

print(json.dumps({
    "name": name,
    "encoded": [item.embedding for item in encoded.data],
    "numbers": [item.embedding for item in numbers.data],
    "ollama": [list(vector) for vector in embedded.embeddings],
    "one": list(one.embedding),
    "refused": refused,
    "status": status,
}))
