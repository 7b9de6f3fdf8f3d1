// As verify.py, with the library for JavaScript.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.argv[2] + "/");
const { Webhook } = require("standardwebhooks");

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    new Webhook(request.secret).verify(request.body, request.headers);
    console.log("ok");
  } catch (error) {
    console.log(`refused: ${error.message}`);
  }
}
