//! The shop and its people: what they are follows from the seed and their number alone, so nothing of it is kept.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ITEMS: u32 = 200;
/// How much more the first items are wanted than the last: the exponent of Zipf's law.
const ZIPF_EXPONENT: f64 = 1.1;

/// Country, its currency, and how many of a hundred come from it.
const COUNTRIES: &[(&str, &str, u32)] = &[
    ("US", "USD", 32),
    ("DE", "EUR", 14),
    ("GB", "GBP", 12),
    ("FR", "EUR", 9),
    ("IN", "INR", 9),
    ("BR", "BRL", 7),
    ("JP", "JPY", 6),
    ("CA", "CAD", 5),
    ("NL", "EUR", 3),
    ("AU", "AUD", 3),
];
const DEVICES: &[(&str, u32)] = &[("mobile", 58), ("desktop", 36), ("tablet", 6)];
const PLANS: &[(&str, u32)] = &[("free", 70), ("pro", 24), ("team", 6)];
const SOURCES: &[(Option<&str>, u32)] = &[
    (None, 40),
    (Some("google"), 28),
    (Some("newsletter"), 12),
    (Some("facebook"), 10),
    (Some("instagram"), 6),
    (Some("partner"), 4),
];

/// One of the people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub distinct_id: String,
    pub country: &'static str,
    pub currency: &'static str,
    pub device: &'static str,
    pub plan: &'static str,
}

/// What there is to see and to buy.
pub(super) struct Shop {
    seed: u64,
    /// The chance of an item with this number or a lower one.
    cumulative: Vec<f64>,
    prices: Vec<f64>,
}

impl Shop {
    pub(super) fn new(seed: u64) -> Self {
        let weights: Vec<f64> = (1..=ITEMS).map(|rank| f64::from(rank).powf(-ZIPF_EXPONENT)).collect();
        let total: f64 = weights.iter().sum();
        let mut below = 0.0;
        let cumulative = weights
            .iter()
            .map(|weight| {
                below += weight / total;
                below
            })
            .collect();
        // Prices are the same for every seed: the shop is one, its visitors differ.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let prices = (0..ITEMS).map(|_| f64::from(rng.random_range(199..19_999_u32)) / 100.0).collect();
        Self { seed, cumulative, prices }
    }

    /// An item, by how much it is wanted; the first has number 1.
    pub(super) fn item(&self, rng: &mut ChaCha8Rng) -> u32 {
        let draw = rng.random::<f64>();
        let rank = self.cumulative.partition_point(|below| *below < draw);
        u32::try_from(rank).unwrap_or(0).min(ITEMS - 1) + 1
    }

    /// With two decimals.
    pub(super) fn price(&self, item: u32) -> f64 {
        self.prices.get(item as usize - 1).copied().unwrap_or(9.99)
    }

    /// The advert of an item: `food_42` for item 42.
    pub(super) fn ad_id(item: u32) -> String {
        format!("food_{item}")
    }

    /// Where a session comes from; `None`: typed in.
    pub(super) fn utm_source(&self, rng: &mut ChaCha8Rng) -> Option<&'static str> {
        pick(rng, SOURCES)
    }

    /// The page that such a source links from.
    pub(super) fn referrer(source: &'static str) -> &'static str {
        match source {
            "google" => "https://www.google.com/",
            "facebook" => "https://www.facebook.com/",
            "instagram" => "https://www.instagram.com/",
            "newsletter" => "https://mail.example/",
            _ => "https://partner.example/",
        }
    }

    /// The person with this number.
    pub(super) fn person(&self, number: u32) -> Person {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(u64::from(number) + 1);
        let draw = rng.random_range(0..COUNTRIES.iter().map(|(_, _, share)| share).sum());
        let mut below = 0;
        let (country, currency) = COUNTRIES
            .iter()
            .find(|(_, _, share)| {
                below += share;
                draw < below
            })
            .map_or(("US", "USD"), |(country, currency, _)| (*country, *currency));
        Person {
            distinct_id: format!("person_{number}"),
            country,
            currency,
            device: pick(&mut rng, DEVICES),
            plan: pick(&mut rng, PLANS),
        }
    }
}

/// One of them, by their shares; the lists are constants and never empty.
fn pick<T: Copy>(rng: &mut ChaCha8Rng, shares: &[(T, u32)]) -> T {
    let draw = rng.random_range(0..shares.iter().map(|(_, share)| share).sum());
    let mut below = 0;
    let found = shares.iter().find(|(_, share)| {
        below += share;
        draw < below
    });
    found.map_or(shares[0].0, |(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_person_stays_the_same_and_people_differ() {
        let shop = Shop::new(7);
        assert_eq!(shop.person(3), Shop::new(7).person(3));
        let countries: std::collections::BTreeSet<_> = (0..200).map(|n| shop.person(n).country).collect();
        assert_eq!(countries.len(), COUNTRIES.len());
    }

    #[test]
    fn few_items_are_wanted_much_and_every_number_is_within_bounds() {
        let (shop, mut rng) = (Shop::new(1), ChaCha8Rng::seed_from_u64(1));
        let mut counts = BTreeMap::new();
        for _ in 0..20_000 {
            *counts.entry(shop.item(&mut rng)).or_insert(0) += 1;
        }
        assert!(counts.keys().all(|item| (1..=ITEMS).contains(item)));
        assert!(counts[&1] > 5 * counts[&10], "{counts:?}");
        assert!(shop.price(1) >= 1.99 && shop.price(ITEMS) < 200.0);
    }
}
