//! When the next request to a broker goes out, and when there may be something to send.

use super::*;

#[test]
fn records_for_a_broker_that_has_nothing_to_answer_go_out_at_once() {
    assert!(Broker::default().is_time(&Ready::default()));
}

#[test]
fn a_broker_with_a_request_gets_no_other_until_it_answers_or_a_batch_is_full() {
    let mut broker = Broker { under_way: 1, ..Broker::default() };
    assert!(!broker.is_time(&Ready::default()));
    assert!(broker.is_time(&Ready { full: true, ..Ready::default() }));
    broker.under_way = 0;
    assert!(broker.is_time(&Ready::default()));
}

#[test]
fn only_a_broker_that_could_be_sent_something_wants_the_next_record() {
    assert_eq!(Broker::default().wanted(), 1);
    let busy = Broker { under_way: 1, ..Broker::default() };
    let dialing = Broker { dialing: true, ..Broker::default() };
    let paused = Broker { paused_until: Some(Instant::now()), ..Broker::default() };
    for broker in [busy, dialing, paused] {
        assert_eq!(broker.wanted(), usize::MAX);
    }
}
