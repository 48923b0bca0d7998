"""Verifies every DKIM signature of a mail with dkimpy and prints a result a signature, as JSON.

The argument is a JSON object: content (base64) and records, which answer instead of DNS.
"""
import base64
import json
import re
import sys

import dkim

with open(sys.argv[1]) as file:
    task = json.load(file)
message = base64.b64decode(task["content"])


def answer(name, timeout=5):
    text = task["records"].get(name.decode().rstrip("."))
    return text.encode() if text is not None else None


signatures = [value for name, value in dkim.DKIM(message).headers if name.lower() == b"dkim-signature"]
results = []
for index, value in enumerate(signatures):
    tags = re.sub(r"\s+", "", value.decode()).rstrip(";").split(";")
    try:
        verified, why = bool(dkim.DKIM(message).verify(idx=index, dnsfunc=answer)), ""
    except dkim.DKIMException as error:
        verified, why = False, str(error)
    results.append({"verified": verified, "why": why, "tags": dict(tag.split("=", 1) for tag in tags)})
print(json.dumps(results))
