//! When the next request to a broker goes out.

use super::*;

fn ready(queued: usize, lingered: bool) -> Ready {
    Ready { queued, lingered, ..Ready::default() }
}

#[test]
fn the_first_record_for_a_broker_goes_out_at_once() {
    assert!(Broker::default().is_time(&ready(1, false)));
}

#[test]
fn a_request_waits_for_its_crowd_and_no_longer() {
    let mut broker = Broker { crowd: 64, ..Broker::default() };
    assert!(!broker.is_time(&ready(63, false)));
    assert!(broker.is_time(&ready(64, false)) && broker.is_time(&ready(64, true)));
    assert_eq!(broker.hasty, 0, "a crowd that came is waited for again");
}

#[test]
fn a_broker_with_a_request_gets_no_other_however_long_records_wait() {
    let mut broker = Broker { crowd: 1, under_way: 1, hasty: HASTY, ..Broker::default() };
    assert!(!broker.is_time(&ready(1000, true)));
    assert_eq!(broker.hasty, HASTY, "only requests are counted");
    broker.under_way = 0;
    assert!(broker.is_time(&ready(1000, true)));
}

#[test]
fn a_crowd_that_did_not_come_is_not_waited_for_by_the_next_requests() {
    let mut broker = Broker { crowd: 64, ..Broker::default() };
    assert!(!broker.is_time(&ready(1, false)));
    assert!(broker.is_time(&ready(1, true)), "after linger it goes out");
    for request in 0..HASTY {
        assert!(broker.is_time(&ready(1, false)), "request {request}");
    }
    assert!(!broker.is_time(&ready(1, false)), "then a crowd is tried for again");
}
