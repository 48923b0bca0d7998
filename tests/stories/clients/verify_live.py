"""Verifies mails as they come with dkimpy against a real name server, as its zone is at that moment.

The argument is the server as host and port. Each line of standard input is a mail (base64); each line of the answer is
JSON: a result a signature.
"""
import base64
import json
import re
import subprocess
import sys

import dkim

host, port = sys.argv[1], sys.argv[2]


def answer(name, timeout=5):
    asked = ["kdig", "+short", f"@{host}", "-p", port, name.decode(), "TXT"]
    printed = subprocess.run(asked, capture_output=True, text=True, timeout=timeout, check=False).stdout
    strings = re.findall(r'"([^"]*)"', printed.splitlines()[0]) if printed else []
    return "".join(strings).encode() if strings else None


for line in sys.stdin:
    message = base64.b64decode(line)
    fields = [value for name, value in dkim.DKIM(message).headers if name.lower() == b"dkim-signature"]
    results = []
    for index, value in enumerate(fields):
        tags = dict(tag.split("=", 1) for tag in re.sub(r"\s+", "", value.decode()).rstrip(";").split(";"))
        try:
            verified, why = bool(dkim.DKIM(message).verify(idx=index, dnsfunc=answer)), ""
        except dkim.DKIMException as error:
            verified, why = False, str(error)
        results.append({"verified": verified, "why": why, "selector": tags["s"], "domain": tags["d"]})
    print(json.dumps(results), flush=True)
