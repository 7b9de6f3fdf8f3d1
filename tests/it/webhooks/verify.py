# Reads requests, one JSON object a line ({"headers": …, "body": …, "secret": …}), and verifies each with the published
# library of Standard Webhooks; prints "ok" or what it says.
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    request = json.loads(line)
    try:
        Webhook(request["secret"]).verify(request["body"], request["headers"])
        print("ok")
    except WebhookVerificationError as error:
        print(f"refused: {error}")
