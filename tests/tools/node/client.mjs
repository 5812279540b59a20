// Loads credentials as any program with the SDK for JavaScript does, once for every line of standard input.
// Prints one JSON object a line: access_key_id and expiration, or error.

import { createInterface } from "node:readline";
import { STSClient } from "@aws-sdk/client-sts";

const client = new STSClient({});

for await (const _ of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { accessKeyId, expiration } = await client.config.credentials();
    answer = { access_key_id: accessKeyId, expiration: expiration?.toISOString() ?? null };
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
