"""Reads a delivery report (file named by the first argument) with Python's email package and prints its parts, as JSON."""
import email
import email.policy
import json
import sys

with open(sys.argv[1], "rb") as file:
    message = email.message_from_binary_file(file, policy=email.policy.default)


def fields(block):
    return {name.lower(): str(value) for name, value in block.items()}


text, status, returned = message.get_payload()
if returned.get_content_maintype() == "message":
    original = returned.get_payload(0).as_bytes()
else:
    original = returned.get_payload(decode=True)
print(json.dumps({
    "fields": fields(message),
    "type": message.get_content_type(),
    "report_type": message.get_param("report-type"),
    "text": text.get_content(),
    "status_type": status.get_content_type(),
    "message": fields(status.get_payload()[0]),
    "recipients": [fields(block) for block in status.get_payload()[1:] if block.items()],
    "returned_type": returned.get_content_type(),
    "returned": original.decode("utf-8", "replace"),
    "defects": [repr(defect) for part in message.walk() for defect in part.defects],
}))
