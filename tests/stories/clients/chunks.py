"""Speaks BDAT (RFC 3030) on a socket of its own and prints the last reply of each case, as JSON."""
import base64
import json
import socket
import ssl
import sys

with open(sys.argv[1]) as file:
    task = json.load(file)
trust = ssl.create_default_context()
trust.check_hostname = False
trust.verify_mode = ssl.CERT_NONE
connection = trust.wrap_socket(socket.create_connection((task["host"], task["port"]), timeout=30))
reader = connection.makefile("rb")


def reply():
    lines = []
    while True:
        line = reader.readline().decode()
        if not line:
            raise EOFError(f"the connection ended after {lines}")
        lines.append(line.rstrip())
        if line[3:4] != "-":
            return " ".join(lines)


def say(*commands):
    """Sends all at once and gives the last reply."""
    connection.sendall(b"".join(c if isinstance(c, bytes) else c.encode() + b"\r\n" for c in commands))
    answers = [reply() for c in commands if isinstance(c, str)]
    return answers[-1] if answers else None


def message(subject, body=b"One\r\n.\r\n..two\r\n.three\r\n"):
    return f"From: {task['from']}\r\nSubject: {subject}\r\n\r\n".encode() + body


reply()
say("EHLO client.test")
token = base64.b64encode(f"\0{task['username']}\0{task['secret']}".encode()).decode()
assert say(f"AUTH PLAIN {token}").startswith("235")
envelope = [f"MAIL FROM:<{task['from']}>", "RCPT TO:<chunks@receiver.test>"]
results = {}

content = message("whole")
say(*envelope)
results["whole"] = say(f"BDAT {len(content)} LAST", content)

content = message("pieces")
say(*envelope)
for octet in range(len(content) - 1):
    assert say("BDAT 1", content[octet:octet + 1]).startswith("250")
results["pieces"] = say("BDAT 1 LAST", content[-1:])

content = message("empty last")
say(*envelope)
say(f"BDAT {len(content)}", content)
results["empty last"] = say("BDAT 0 LAST")

content = message("pipelined")
half = len(content) // 2
results["pipelined"] = say(
    *envelope, f"BDAT {half}", content[:half], f"BDAT {len(content) - half} LAST", content[half:])

content = message("bare", b"One\n.\r\nTwo\r\n")
results["bare line feed"] = say(*envelope, f"BDAT {len(content)} LAST", content)

say(*envelope, "BDAT 3", b"One")
results["data after chunk"] = say("DATA")
say("RSET")

content = message("after all", b"x\r\n")
results["after all"] = say(*envelope, f"BDAT {len(content)} LAST", content)
say("QUIT")
print(json.dumps(results))
