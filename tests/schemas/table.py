"""The table of keywords in docs/json-schema.md: how many schemas of JSON-Schema-Test-Suite (draft 2020-12) are
accepted, by the keyword that they test, and why the others are not.

usage: table.py NAMES ANSWERS
"""

import collections
import json
import re
import sys


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        names = [json.loads(line) for line in file]
    refused = {}
    for line in open(sys.argv[2], encoding="utf-8"):
        answer = json.loads(line)
        if answer["end"] == "refused":
            reason = answer["error"].split(" is not accepted; expected ")[-1]
            reason = re.sub(r"^a schema (that can be used|without it): ", "", reason)
            # What the schema itself says is left out.
            refused[answer["schema"]] = re.sub(r"(: .*|/[^ ]*/.*|\(.*?\)| '[^']*')", "", reason).strip()
    rows = collections.defaultdict(lambda: [0, 0, collections.Counter()])
    for number, group in enumerate(names):
        if group["draft"] == "draft2020-12":
            row = rows[group["keyword"]]
            row[0] += 1
            if number in refused:
                row[1] += 1
                row[2][refused[number]] += 1
    print("| keyword | schemas | accepted | the others are refused as |")
    print("|---|---|---|---|")
    for keyword, (count, without, reasons) in sorted(rows.items()):
        why = "; ".join(reason for reason, _ in reasons.most_common(3)).replace("|", "\\|")
        print(f"| `{keyword}` | {count} | {count - without} | {why} |")


main()
