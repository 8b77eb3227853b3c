"""Asks by the router of packaging/litellm/config.yaml, one of whose daemons is not there.

    litellm_router.py URL_OF_A_DAEMON URL_WHERE_NOBODY_LISTENS
"""

import json
import os
import sys
from pathlib import Path

import litellm
import yaml

litellm.suppress_debug_info = True
os.environ["PHI4D_API_KEY"] = "none"
config = yaml.safe_load(Path("packaging/litellm/config.yaml").read_text())
for entry, url in zip(config["model_list"], sys.argv[1:], strict=True):
    entry["litellm_params"] |= {"api_base": url + "/v1", "model": "openai/demo"}
router = litellm.Router(model_list=config["model_list"], **config["router_settings"])
answers = []
for _ in range(8):
    answer = router.completion(
        model="phi-4", messages=[{"role": "user", "content": "What is 12+7?"}], temperature=0, max_tokens=16
    )
    answers.append(answer.choices[0].message.content)
print(json.dumps(answers))
