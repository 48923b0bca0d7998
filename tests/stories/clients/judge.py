"""Reads a message (file named by the first argument) with Python's email package and prints what it is, as JSON."""
import base64
import email
import email.policy
import json
import sys

with open(sys.argv[1], "rb") as file:
    message = email.message_from_binary_file(file, policy=email.policy.default)

parts = []
for part in message.walk():
    if part.is_multipart():
        parts.append({"type": part.get_content_type()})
        continue
    content = part.get_payload(decode=True)
    text = content.decode(part.get_content_charset("utf-8")) if part.get_content_maintype() == "text" else None
    parts.append({
        "type": part.get_content_type(),
        "disposition": part.get_content_disposition(),
        "name": part.get_filename(),
        "id": part.get("Content-ID"),
        "text": text,
        "base64": base64.b64encode(content).decode(),
        "defects": [repr(defect) for defect in part.defects],
    })

print(json.dumps({
    "headers": [[name, str(value)] for name, value in message.items()],
    "parts": parts,
    "defects": [repr(defect) for defect in message.defects],
}))
