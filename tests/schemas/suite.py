"""Writes the schemas of JSON-Schema-Test-Suite, which the source package of jsonschema contains, one in each line,
and the keywords that each group tests to a second file.

usage: suite.py JSONSCHEMA-SOURCE.tar.gz SCHEMAS NAMES
"""

import json
import sys
import tarfile

DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft4": "http://json-schema.org/draft-04/schema#",
}


def main():
    source, schemas, names = sys.argv[1:]
    with (
        tarfile.open(source) as archive,
        open(schemas, "w", encoding="utf-8") as out,
        open(names, "w", encoding="utf-8") as named,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            parts = member.name.split("/")
            if parts[1:3] != ["json", "tests"] or parts[3] not in DRAFTS or not member.name.endswith(".json"):
                continue
            if parts[4] == "optional" and parts[5] != "format":
                continue
            for group in json.load(archive.extractfile(member)):
                schema = group["schema"]
                if isinstance(schema, dict):
                    schema = {"$schema": DRAFTS[parts[3]], **schema}
                out.write(json.dumps(schema) + "\n")
                keyword = "/".join(parts[4:]).removesuffix(".json").removeprefix("optional/")
                named.write(json.dumps({"draft": parts[3], "keyword": keyword, "group": group["description"]}) + "\n")


main()
