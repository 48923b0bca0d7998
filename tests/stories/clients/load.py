"""Submits numbered mails by SMTP and REST until it is told to stop, through any number of restarts of the server.

Usage: load.py SMTP_PORT REST_PORT USERNAME SMTP_THREADS REST_THREADS PREFIX ACKNOWLEDGED
The secret comes from the variable POSTRAIL_SECRET. Mail number N goes to PREFIX+N@receiver.test, once: a number is never
tried again. ACKNOWLEDGED gets a line "N smtp" or "N rest" as soon as the server has said 250 or 202. A line on standard
input, or its end, stops it.
"""

import base64
import http.client
import itertools
import json
import os
import smtplib
import ssl
import sys
import threading
import time

smtp_port, rest_port, username, smtp_threads, rest_threads, prefix, path = sys.argv[1:8]
secret = os.environ["POSTRAIL_SECRET"]
sender = "load@sender.test"
numbers = itertools.count(1)
stop = threading.Event()
acknowledged = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def acknowledge(number, way):
    os.write(acknowledged, f"{number} {way}\n".encode())


def by_smtp():
    while not stop.is_set():
        try:
            with smtplib.SMTP("127.0.0.1", int(smtp_port), timeout=20) as client:
                client.starttls(context=context)
                client.login(username, secret)
                for _ in range(40):
                    if stop.is_set():
                        break
                    number = next(numbers)
                    to = f"{prefix}+{number}@receiver.test"
                    mail = f"From: {sender}\r\nTo: {to}\r\nSubject: {number}\r\n\r\nMail number {number}.\r\n"
                    client.sendmail(sender, [to], mail)
                    acknowledge(number, "smtp")
        except (OSError, smtplib.SMTPException):
            time.sleep(0.02)


def by_rest():
    proof = base64.b64encode(f"{username}:{secret}".encode()).decode()
    headers = {"Authorization": f"Basic {proof}", "Content-Type": "application/json"}
    while not stop.is_set():
        client = http.client.HTTPConnection("127.0.0.1", int(rest_port), timeout=20)
        try:
            while not stop.is_set():
                number = next(numbers)
                job = {
                    "subject": {"content": str(number)},
                    "body": {"contentType": "text/plain", "content": f"Mail number {number}."},
                    "recipients": [{"mail": {"to": [{"email": f"{prefix}+{number}@receiver.test"}]}}],
                    "mail": {"from": {"email": sender}, "mimeFrom": {"email": sender}},
                }
                client.request("POST", "/v2/jobs", json.dumps(job), headers)
                answer = client.getresponse()
                answer.read()
                if answer.status == 202:
                    acknowledge(number, "rest")
                else:
                    time.sleep(0.02)
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
        finally:
            client.close()


threads = [threading.Thread(target=by_smtp, daemon=True) for _ in range(int(smtp_threads))]
threads += [threading.Thread(target=by_rest, daemon=True) for _ in range(int(rest_threads))]
for thread in threads:
    thread.start()
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join(timeout=25)
