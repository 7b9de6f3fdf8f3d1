"""Every events method of the Python SDK, unmodified, against a real server. Prints {method: "ok" or what was wrong}."""

import asyncio
import json
import sys
import time

from flexprice import Flexprice
from flexprice.models import errors

url, key, meter_id, prefix = sys.argv[1:5]
client = Flexprice(server_url=url + "/v1", api_key_auth=key)
results = {}


def check(name, condition, seen):
    assert condition, f"{name}: {seen!r}"


def poll(ask, good):
    deadline = time.monotonic() + 60
    while True:
        answer = ask()
        if good(answer):
            return answer
        assert time.monotonic() < deadline, f"not within a minute: {answer!r}"


def method(function):
    try:
        function()
        results[function.__name__] = "ok"
    except Exception as error:  # noqa: BLE001: whatever it is, the test prints it
        results[function.__name__] = f"{type(error).__name__}: {error}"


def event(n):
    return {
        "event_name": "sdk.call",
        "external_customer_id": prefix,
        "event_id": f"{prefix}/{n}",
        "properties": {"tokens": "0.1", "region": "eu"},
        "source": "sdk",
    }


def ingest_event():
    answer = client.events.ingest_event(**event(0))
    check("ingest", answer == {"message": "Event accepted for processing", "event_id": f"{prefix}/0"}, answer)


def ingest_events_bulk():
    answer = client.events.ingest_events_bulk(events=[event(n) for n in range(1, 10)])
    check("bulk", answer["accepted"] == "9" and len(json.loads(answer["event_ids"])) == 9, answer)


def list_raw_events():
    ask = lambda: client.events.list_raw_events(
        external_customer_id=prefix, property_filters={"region": ["eu"]}, page_size=10, sort="timestamp", order="asc"
    )
    page = poll(ask, lambda page: len(page.events) == 10)
    check("list", page.has_more is False and page.events[0].properties["tokens"] == "0.1", page)
    first = client.events.list_raw_events(external_customer_id=prefix, page_size=4)
    rest = client.events.list_raw_events(external_customer_id=prefix, page_size=50, iter_last_key=first.iter_last_key)
    check("pages", len(first.events) == 4 and first.has_more and len(rest.events) == 6, rest)
    empty = client.events.list_raw_events(external_customer_id="nobody")
    check("empty", empty.events == [], empty)


def get_usage_statistics():
    answer = client.events.get_usage_statistics(
        event_name="sdk.call", aggregation_type="SUM", property_name="tokens", external_customer_id=prefix, window_size="DAY"
    )
    check("usage", answer.value == 1.0 and sum(result.value for result in answer.results) == 1.0, answer)
    nothing = client.events.get_usage_statistics(
        event_name="sdk.none", aggregation_type="MAX", property_name="tokens", external_customer_id=prefix
    )
    check("nothing", nothing.value == 0 and nothing.results == [], nothing)


def get_usage_by_meter():
    answer = client.events.get_usage_by_meter(meter_id=meter_id, external_customer_id=prefix)
    check("meter", answer.value == 1.0, answer)


def get_usage_analytics():
    answer = client.events.get_usage_analytics(external_customer_id=prefix, window_size="DAY")
    check("analytics", answer.items[0].total_usage == "1" and answer.items[0].points[0].usage == "1", answer)


def get_event():
    answer = client.events.get_event(id=f"{prefix}/3", external_customer_id=prefix)
    check("event", answer.status == "processed" and answer.event.id == f"{prefix}/3", answer)
    check("meters", answer.debug_tracker.meter_matching.matched_meters[0].meter_id == meter_id, answer)


# One loop for all: the client keeps its connections.
loop = asyncio.new_event_loop()


def ingest_event_async():
    answer = loop.run_until_complete(client.events.ingest_event_async(**event(0)))
    check("async", answer["event_id"] == f"{prefix}/0", answer)


def ingest_events_bulk_async():
    answer = loop.run_until_complete(client.events.ingest_events_bulk_async(events=[event(1)]))
    check("async", answer["accepted"] == "1", answer)


def list_raw_events_async():
    page = loop.run_until_complete(client.events.list_raw_events_async(external_customer_id=prefix))
    check("async", len(page.events) == 10, page)


def get_usage_statistics_async():
    asked = client.events.get_usage_statistics_async(
        event_name="sdk.call", aggregation_type="COUNT", external_customer_id=prefix
    )
    answer = loop.run_until_complete(asked)
    check("async", answer.value == 10, answer)


def get_usage_by_meter_async():
    asked = client.events.get_usage_by_meter_async(meter_id=meter_id, external_customer_id=prefix)
    check("async", loop.run_until_complete(asked).value == 1.0, asked)


def get_usage_analytics_async():
    answer = loop.run_until_complete(client.events.get_usage_analytics_async(external_customer_id=prefix))
    check("async", answer.items[0].total_usage == "1", answer)


def get_event_async():
    asked = client.events.get_event_async(id=f"{prefix}/3", external_customer_id=prefix)
    check("async", loop.run_until_complete(asked).status == "processed", asked)


def errors_are_parsed():
    try:
        client.events.get_usage_statistics(event_name="x", aggregation_type="SUM")
    except errors.ErrorResponse as error:
        check("error", error.data.code == "validation_error" and "property_name" in error.data.message, error)
        return
    raise AssertionError("no error")


for function in [
    ingest_event, ingest_events_bulk, list_raw_events, get_usage_statistics, get_usage_by_meter, get_usage_analytics,
    get_event, ingest_event_async, ingest_events_bulk_async, list_raw_events_async, get_usage_statistics_async,
    get_usage_by_meter_async, get_usage_analytics_async, get_event_async, errors_are_parsed,
]:
    method(function)
print(json.dumps(results))
