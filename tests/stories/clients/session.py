"""Sends mails in one SMTP session with smtplib and prints each answer, as JSON.

The argument is a JSON object: host, port, tls ("starttls", "implicit" or "none"), mechanism, username, secret, and mails:
from, to (a list), mail_options, rcpt_options, and content (base64) or a text that becomes one.
"""
import base64
import json
import smtplib
import ssl
import sys

with open(sys.argv[1]) as file:
    task = json.load(file)
trust = ssl.create_default_context()
trust.check_hostname = False
trust.verify_mode = ssl.CERT_NONE

kind = smtplib.SMTP_SSL if task["tls"] == "implicit" else smtplib.SMTP
options = {"context": trust} if task["tls"] == "implicit" else {}
session = kind(task["host"], task["port"], timeout=60, **options)
session.ehlo("client.test")
if task["tls"] == "starttls":
    session.starttls(context=trust)
    session.ehlo("client.test")
session.user, session.password = task["username"], task["secret"]
authenticate = session.auth_login if task["mechanism"] == "LOGIN" else session.auth_plain
session.auth(task["mechanism"], authenticate)

answers = []
for mail in task["mails"]:
    options = mail.get("mail_options", [])
    encoding = "utf-8" if "SMTPUTF8" in options else "ascii"
    session.command_encoding = encoding
    answer = {"mail": session.mail(mail["from"], options), "rcpt": [], "data": None}
    for address in mail["to"]:
        answer["rcpt"].append(session.rcpt(address, mail.get("rcpt_options", [])))
    if answer["mail"][0] == 250 and any(code == 250 for code, _ in answer["rcpt"]):
        try:
            answer["data"] = session.data(base64.b64decode(mail["content"]))
        except smtplib.SMTPDataError as error:
            answer["data"] = (error.smtp_code, error.smtp_error)
    else:
        session.rset()
    answers.append(answer)
features = session.esmtp_features
session.quit()


def readable(value):
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


print(json.dumps({"features": features, "answers": answers}, default=readable))
