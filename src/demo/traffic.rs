//! The events themselves: people who sign up, browse, click adverts and buy. Pure: the same [`Plan`] gives the same
//! bytes, whoever sends them and however fast; the same seed gives the same ids at any time of day.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::rhythm::Rhythm;
use super::shop::{Person, Shop};
use crate::event::Timestamp;

/// Most visitors at a time; their sessions interleave.
const VISITORS_MAX: f64 = 20_000.0;
/// A visitor does something about this often.
const PAUSE_SECONDS: f64 = 20.0;
const PAUSE_MILLIS: std::ops::Range<u64> = 2_000..38_000;
/// A duplicate is a resend of one of this many events before it.
const RECENT: usize = 500;
/// How far back a late event happened.
const LATE_MILLIS: std::ops::Range<u64> = 3_600_000..3 * 86_400_000;
const SITE: &str = "https://shop.example";

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub seed: u64,
    /// How many, duplicates and invalid ones included.
    pub events: u64,
    /// How many people there are to choose from; 1 or more.
    pub people: u32,
    /// When the first and the last event happen.
    pub from: Timestamp,
    pub until: Timestamp,
    /// Shares of all events, 0 to 1 each, together at most 1.
    pub duplicates: f64,
    pub invalid: f64,
    pub late: f64,
}

/// What an event was made to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    /// Happened long before it is sent.
    Late,
    /// The same bytes as an earlier one.
    Duplicate,
    /// Breaks one of capture's rules.
    Invalid,
}

/// One item of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub json: String,
    pub kind: Kind,
}

/// An event as capture takes it.
#[derive(Serialize)]
struct Event<'a> {
    event: &'a str,
    distinct_id: &'a str,
    event_id: Uuid,
    timestamp: Timestamp,
    session_id: &'a str,
    source: &'a str,
    properties: Properties<'a>,
}

#[derive(Default, Serialize)]
struct Properties<'a> {
    #[serde(rename = "$current_url", skip_serializing_if = "Option::is_none")]
    current_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referrer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    utm_source: Option<&'a str>,
    country: &'a str,
    device: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ad_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantity: Option<u32>,
}

/// What a visitor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Land,
    View(u32),
    Click(u32),
    SignUp,
    AddToCart(u32),
    Buy(u32),
}

/// Someone in the middle of a session.
struct Visitor {
    person: Person,
    number: u32,
    session_id: String,
    next: Act,
    /// When they last did something.
    last: Option<Timestamp>,
    /// Came through an advert of ours or from elsewhere.
    utm_source: Option<&'static str>,
}

/// The events of a [`Plan`], one by one, in about the order they happen.
pub(crate) struct Traffic {
    plan: Plan,
    rng: ChaCha8Rng,
    shop: Shop,
    rhythm: Rhythm,
    visitors: Vec<Visitor>,
    signed_up: Vec<bool>,
    recent: Vec<String>,
    made: u64,
}

impl Traffic {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let shop = Shop::new(plan.seed);
        let signed_up = vec![false; plan.people as usize];
        #[expect(clippy::cast_precision_loss, reason = "how many visit at a time is a rough number")]
        let rate = plan.events as f64 / plan.until.since(plan.from).as_secs_f64().max(1.0);
        let visitors = (rate * PAUSE_SECONDS).clamp(1.0, VISITORS_MAX).min(f64::from(plan.people));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and VISITORS_MAX"
        )]
        let visitors = (0..visitors as u32).map(|_| arrive(&mut rng, &shop, plan.people)).collect();
        let rhythm = Rhythm::new(plan.from, plan.until);
        Self { plan, rng, shop, rhythm, visitors, signed_up, recent: Vec::with_capacity(RECENT), made: 0 }
    }

    /// What the share of a kind asks for this time. One draw decides, so that shares never overlap.
    fn draw_kind(&mut self) -> Kind {
        let draw = self.rng.random::<f64>();
        let Plan { duplicates, invalid, late, .. } = self.plan;
        if draw < duplicates {
            // The first event has none to repeat.
            if self.recent.is_empty() { Kind::Good } else { Kind::Duplicate }
        } else if draw < duplicates + invalid {
            Kind::Invalid
        } else if draw < duplicates + invalid + late {
            Kind::Late
        } else {
            Kind::Good
        }
    }

    /// The next thing that one of the visitors does.
    fn happen(&mut self, kind: Kind) -> Made {
        #[expect(clippy::cast_precision_loss, reason = "a position in time, to the millisecond")]
        let progress = (self.made as f64 + self.rng.random::<f64>()) / self.plan.events as f64;
        let mut at = self.rhythm.at(progress);
        if let [alone] = &mut *self.visitors {
            // So little traffic that one visitor's acts would lie hours apart: a session stays together.
            let pause = std::time::Duration::from_millis(self.rng.random_range(PAUSE_MILLIS));
            at = alone.last.map_or(at, |last| at.min(last.plus(pause)));
            alone.last = Some(at);
        }
        if kind == Kind::Late {
            at = at.minus(std::time::Duration::from_millis(self.rng.random_range(LATE_MILLIS)));
        }
        let index = self.rng.random_range(0..self.visitors.len());
        let event_id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let visitor = &self.visitors[index];
        let act = visitor.next;
        let signed_up = &mut self.signed_up[visitor.number as usize];
        *signed_up |= act == Act::SignUp;
        let event = event(visitor, act, &self.shop, event_id, at, *signed_up);
        let json = if kind == Kind::Invalid {
            broken(&event, self.rng.random_range(0..5))
        } else {
            serde_json::to_string(&event).unwrap_or_default()
        };
        let signed_up = *signed_up;
        match next_act(&mut self.rng, &self.shop, act, signed_up) {
            Some(next) => {
                let visitor = &mut self.visitors[index];
                if matches!(act, Act::Click(_)) {
                    visitor.utm_source = Some("advert");
                }
                visitor.next = next;
            }
            None => self.visitors[index] = arrive(&mut self.rng, &self.shop, self.plan.people),
        }
        Made { json, kind }
    }
}

impl Iterator for Traffic {
    type Item = Made;

    fn next(&mut self) -> Option<Made> {
        if self.made >= self.plan.events {
            return None;
        }
        let kind = self.draw_kind();
        let made = if kind == Kind::Duplicate {
            let json = self.recent[self.rng.random_range(0..self.recent.len())].clone();
            Made { json, kind }
        } else {
            let made = self.happen(kind);
            if self.plan.duplicates > 0.0 && kind != Kind::Invalid {
                self.remember(made.json.clone());
            }
            made
        };
        self.made += 1;
        Some(made)
    }
}

impl Traffic {
    fn remember(&mut self, json: String) {
        if self.recent.len() < RECENT {
            self.recent.push(json);
        } else {
            let at = self.rng.random_range(0..RECENT);
            self.recent[at] = json;
        }
    }
}

fn arrive(rng: &mut ChaCha8Rng, shop: &Shop, people: u32) -> Visitor {
    // Some people come often: the square favours low numbers.
    let skewed = rng.random::<f64>().powi(2) * f64::from(people);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below people")]
    let number = (skewed as u32).min(people - 1);
    let person = shop.person(number);
    let session_id = format!("s_{:016x}", rng.random::<u64>());
    let utm_source = shop.utm_source(rng);
    Visitor { person, number, session_id, next: Act::Land, last: None, utm_source }
}

/// What follows; `None`: the visitor leaves.
fn next_act(rng: &mut ChaCha8Rng, shop: &Shop, act: Act, signed_up: bool) -> Option<Act> {
    let draw = rng.random::<f64>();
    let item = shop.item(rng);
    match act {
        Act::Land if draw < 0.35 => None,
        Act::Land if draw < 0.60 => Some(Act::Click(item)),
        Act::Land => Some(Act::View(item)),
        // An advert leads to its item.
        Act::Click(item) => (draw < 0.92).then_some(Act::View(item)),
        Act::View(_) if draw < 0.25 => None,
        Act::View(_) if draw < 0.55 => Some(Act::View(item)),
        Act::View(_) if draw < 0.70 => Some(Act::Click(item)),
        Act::View(item) if signed_up || draw < 0.85 => Some(Act::AddToCart(item)),
        Act::View(_) => Some(Act::SignUp),
        Act::SignUp => (draw < 0.8).then_some(Act::View(item)),
        Act::AddToCart(_) if draw < 0.35 => None,
        Act::AddToCart(_) if !signed_up => Some(Act::SignUp),
        Act::AddToCart(item) if draw < 0.80 => Some(Act::Buy(item)),
        Act::AddToCart(_) => Some(Act::View(item)),
        Act::Buy(_) => (draw < 0.3).then_some(Act::View(item)),
    }
}

fn event<'a>(
    visitor: &'a Visitor,
    act: Act,
    shop: &Shop,
    event_id: Uuid,
    timestamp: Timestamp,
    signed_up: bool,
) -> Event<'a> {
    let person = &visitor.person;
    let mut properties = Properties {
        utm_source: visitor.utm_source,
        country: person.country,
        device: person.device,
        plan: signed_up.then_some(person.plan),
        ..Properties::default()
    };
    let (name, path) = match act {
        Act::Land => {
            properties.referrer = visitor.utm_source.map(Shop::referrer);
            ("$pageview", "/".to_owned())
        }
        Act::View(item) => {
            properties.item_id = Some(item);
            ("$pageview", format!("/items/{item}"))
        }
        Act::Click(item) => {
            properties.ad_id = Some(Shop::ad_id(item));
            properties.item_id = Some(item);
            properties.session_id = Some(&visitor.session_id);
            ("ad clicked", "/".to_owned())
        }
        Act::SignUp => ("signed up", "/sign-up".to_owned()),
        Act::AddToCart(item) | Act::Buy(item) => {
            properties.item_id = Some(item);
            properties.price = Some(shop.price(item));
            properties.currency = Some(person.currency);
            properties.quantity = Some(1);
            if matches!(act, Act::Buy(_)) {
                ("order completed", "/checkout".to_owned())
            } else {
                ("added to cart", format!("/items/{item}"))
            }
        }
    };
    properties.current_url = Some(format!("{SITE}{path}"));
    properties.path = Some(path);
    Event {
        event: name,
        distinct_id: &person.distinct_id,
        event_id,
        timestamp,
        session_id: &visitor.session_id,
        source: "flexflow-generate",
        properties,
    }
}

/// The event with one of capture's rules broken.
fn broken(event: &Event<'_>, way: u8) -> String {
    let mut value = json!(event);
    let Value::Object(fields) = &mut value else { return String::new() };
    match way {
        0 => drop(fields.remove("event")),
        1 => drop(fields.insert("distinct_id".to_owned(), json!(""))),
        2 => drop(fields.insert("timestamp".to_owned(), json!("yesterday"))),
        3 => drop(fields.insert("timestamp".to_owned(), json!("1969-12-31T23:59:59Z"))),
        _ => drop(fields.insert("properties".to_owned(), json!(["not", "an", "object"]))),
    }
    value.to_string()
}
