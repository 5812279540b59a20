"""Loads credentials as any program with botocore does, once for every line of standard input.

Prints one JSON object a line: access_key_id and expiration, or error.
"""

import json
import sys

import botocore.session

session = botocore.session.Session()


def load():
    credentials = session.get_credentials()
    if credentials is None:
        return {"error": "Unable to locate credentials"}
    frozen = credentials.get_frozen_credentials()
    expiry = getattr(credentials, "_expiry_time", None)
    return {"access_key_id": frozen.access_key, "expiration": expiry.isoformat() if expiry else None}


for _ in sys.stdin:
    try:
        answer = load()
    except Exception as error:  # whatever it is, the test reads it
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
