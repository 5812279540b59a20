"""Asks the metadata service for credentials all the time, as an SDK does, and writes what it got.

    asker.py raw|boto RESULTS

raw: token, role list, document, each over a connection of its own and without a retry, every 50 ms or so.
boto: botocore, in turn with a session that is new and one that is kept and thinks it time to refresh.

One JSON object a line, in the order of events: `step` that it ended at, its `status` (0: no answer),
`key` (AccessKeyId), `role`, `code` of a document that is a refusal, `error`, `node` (something of the
node's own credentials was seen), `v1` (asked without a token).
"""

import http.client
import json
import os
import sys
import time

HOST = os.environ.get("ASKER_HOST", "169.254.169.254")
LIST = "/latest/meta-data/iam/security-credentials/"
# Everything that is secret about the node has this in it.
MARKER = os.environ.get("ASKER_MARKER", "NODE-ROLE")
# Longer than the agent holds any request.
TIMEOUT_S = 2.0
PAUSE_S = 0.05


def exchange(method, path, headers):
    connection = http.client.HTTPConnection(HOST, 80, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def ask(seen):
    """One sequence; `seen` says at every moment how far it came."""
    seen["step"] = "token"
    ttl = {"x-aws-ec2-metadata-token-ttl-seconds": "21600"}
    try:
        seen["status"], token = exchange("PUT", "/latest/api/token", ttl)
    except TimeoutError:
        # The real service's token does not live for the hop from a node to its pods.
        seen["status"], token = 0, ""
    headers = {"x-aws-ec2-metadata-token": token} if seen["status"] == 200 else {}
    if seen["status"] in (0, 403, 404, 405):
        # As SDKs do where there is no second version.
        seen["v1"] = True
    elif seen["status"] != 200:
        return
    seen["step"] = "list"
    seen["status"] = 0
    seen["status"], body = exchange("GET", LIST, headers)
    if seen["status"] != 200:
        return
    seen["role"] = body.strip()
    seen["step"] = "document"
    seen["status"] = 0
    seen["status"], body = exchange("GET", LIST + seen["role"], headers)
    seen["node"] = MARKER in body
    if seen["status"] != 200:
        return
    document = json.loads(body)
    if document.get("Code") == "Success":
        seen["key"] = document["AccessKeyId"]
    else:
        seen["code"] = str(document.get("Code"))


def raw(_turn, seen):
    ask(seen)
    time.sleep(PAUSE_S)


class Boto:
    """The same of botocore, which retries as it is told to by its own configuration."""

    def __init__(self):
        self.kept = None

    def __call__(self, turn, seen):
        import botocore.session

        time.sleep(PAUSE_S * 4)
        seen["step"] = "kept" if turn % 2 else "new"
        if turn % 2 == 0 or self.kept is None:
            credentials = botocore.session.Session().get_credentials()
            if credentials is None:
                seen["error"] = "Unable to locate credentials"
                return
            if self.kept is None:
                self.kept = credentials
                # Always near enough its end to be refreshed, never so near that it has to be.
                self.kept._advisory_refresh_timeout = 24 * 3600
        else:
            credentials = self.kept
        frozen = credentials.get_frozen_credentials()
        seen["status"] = 200
        seen["key"] = frozen.access_key
        seen["node"] = MARKER in f"{frozen.access_key}{frozen.secret_key}{frozen.token}"


def main():
    turn_once = raw if sys.argv[1] == "raw" else Boto()
    turn = 0
    with open(sys.argv[2], "a", buffering=1) as results:
        while True:
            seen = {"step": "", "status": 0}
            begin = time.monotonic()
            try:
                turn_once(turn, seen)
            except Exception as error:  # whatever it is, the test reads it
                seen["error"] = f"{type(error).__name__}: {error}"
            seen["took_ms"] = round((time.monotonic() - begin) * 1000)
            seen["at"] = time.time()
            results.write(json.dumps(seen) + "\n")
            turn += 1


main()
