//! `flexflow top`: what happens right now, on one screen. Reads `/metrics`, `/api/ops/lag` and `/api/ops/components`.

mod draw;
mod samples;
mod view;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use serde_json::Value;
use tokio::time::Instant;

use self::samples::Samples;
use self::view::{Look, View};
use super::args::status::Top;
use super::operator::Operator;
use super::output::Output;
use super::{Ended, Usage};

/// Width of a frame that is printed.
const WIDTH: u16 = 110;

pub(super) async fn run(args: &Top, operator: &Operator, output: Output) -> anyhow::Result<Ended> {
    if args.once {
        let view = two_looks(args, operator).await?;
        match output.json {
            true => output.value(&view)?,
            false => output.line(printed(&view))?,
        }
        return Ok(Ended::Done);
    }
    if output.json {
        return Err(Usage::new("--json prints numbers once: add --once").into());
    }
    if !std::io::stdin().is_terminal() || !output.terminal {
        return Err(Usage::new("this is no terminal: `flexflow top --once` prints one frame").into());
    }
    watch(args, operator).await
}

async fn two_looks(args: &Top, operator: &Operator) -> anyhow::Result<View> {
    let before = look(args, operator).await?;
    tokio::time::sleep(args.interval).await;
    let now = look(args, operator).await?;
    Ok(View::new(operator.url(), Some(&before), &now))
}

async fn look(args: &Top, operator: &Operator) -> anyhow::Result<Look> {
    let mut metrics = Samples::parse(&operator.text("/metrics").await?);
    for url in &args.metrics {
        let address = format!("{}/metrics", url.trim_end_matches("/metrics").trim_end_matches('/'));
        metrics.add(Samples::parse(&operator.text_elsewhere(&address).await?));
    }
    let lag: Value = operator.get("/api/ops/lag", &[]).await?;
    let components: Value = operator.get("/api/ops/components", &[]).await?;
    Ok(Look { at: Instant::now(), metrics, lag, components })
}

/// Until `q`, Esc or Ctrl-C. A server that does not answer is told of and asked again.
async fn watch(args: &Top, operator: &Operator) -> anyhow::Result<Ended> {
    let mut screen = Screen::open()?;
    let mut before: Option<Look> = None;
    loop {
        match look(args, operator).await {
            Ok(now) => {
                let view = View::new(operator.url(), before.as_ref(), &now);
                screen.draw(&|area, buffer| draw::frame(&view, area, buffer))?;
                before = Some(now);
            }
            Err(error) => {
                let told = format!("{error:#}");
                screen.draw(&|area, buffer| draw::message(&told, area, buffer))?;
                before = None;
            }
        }
        let interval = args.interval;
        if tokio::task::spawn_blocking(move || quits_within(interval)).await?? {
            return Ok(Ended::Done);
        }
    }
}

/// Is the key pressed that ends it, before the time is over?
fn quits_within(time: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        if !event::poll(until.saturating_duration_since(Instant::now()))? {
            return Ok(false);
        }
        let Event::Key(key) = event::read()? else { continue };
        let interrupts = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let quits = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
        if key.kind == KeyEventKind::Press && (quits || interrupts) {
            return Ok(true);
        }
    }
}

/// The terminal as a canvas; given back as it was when this ends, however it ends.
struct Screen(ratatui::DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init().context("the terminal cannot be drawn on")?))
    }

    fn draw(&mut self, paint: &dyn Fn(Rect, &mut Buffer)) -> anyhow::Result<()> {
        self.0.draw(|frame| paint(frame.area(), frame.buffer_mut()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that is gone.
        let _ = ratatui::try_restore();
    }
}

/// A frame as lines of text.
fn printed(view: &View) -> String {
    let area = Rect::new(0, 0, WIDTH, draw::height(view));
    let mut buffer = Buffer::empty(area);
    draw::frame(view, area, &mut buffer);
    let line = |y: u16| {
        let cells = (0..area.width).filter_map(|x| Some(buffer.cell((x, y))?.symbol()));
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..area.height).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look_at(stored: f64, at: Instant) -> Look {
        let metrics = format!(
            "# HELP x y\nconsumer_records_stored_total{{topic=\"events\"}} {stored}\n\
             consumer_dlq_messages_total{{topic=\"events\",error_kind=\"invalid_json\"}} 3\n\
             breaker_state{{dependency=\"store\"}} 2\n"
        );
        Look {
            at,
            metrics: Samples::parse(&metrics),
            lag: json!({"groups": [
                {"group": "event-consumers", "topic": "events", "partition": 0, "committed": 5, "end": 12, "lag": 7},
                {"group": "event-consumers", "topic": "events", "partition": 1, "committed": 5, "end": 6, "lag": 1},
            ]}),
            components: json!({"status": "degraded", "components": [
                {"name": "store", "state": "down", "reason": "it does not answer"},
                {"name": "eventlog", "state": "up", "reason": ""},
            ]}),
        }
    }

    #[test]
    fn a_frame_says_rates_lag_dead_letters_breakers_and_what_is_down() {
        let start = Instant::now();
        let (before, now) = (look_at(100.0, start), look_at(400.0, start + Duration::from_secs(2)));
        let view = View::new("http://127.0.0.1:8080", Some(&before), &now);
        let frame = printed(&view);
        for part in [
            "http://127.0.0.1:8080",
            "degraded",
            "stored",
            "150.0",
            "400",
            "event-consumers",
            "invalid_json",
            "open",
            "it does not answer",
        ] {
            assert!(frame.contains(part), "{part} is missing:\n{frame}");
        }
        let row = frame.lines().find(|line| line.contains("event-consumers")).unwrap();
        assert!(row.contains(" 8 ") && row.contains(" 7 "), "the lag and the worst partition's: {row}");
        assert!(!frame.contains("eventlog"), "what is up is not listed:\n{frame}");
    }

    #[test]
    fn the_first_look_has_totals_and_no_rates() {
        let view = View::new("here", None, &look_at(100.0, Instant::now()));
        let told = serde_json::to_value(&view).unwrap();
        let stored = told["rates"].as_array().unwrap().iter().find(|rate| rate["name"] == "stored").unwrap();
        assert_eq!((&stored["total"], &stored["per_second"]), (&json!(100.0), &Value::Null));
    }

    #[test]
    fn a_screen_that_is_too_small_is_no_reason_to_fail() {
        let view = View::new("here", None, &look_at(1.0, Instant::now()));
        for (width, height) in [(0, 0), (1, 1), (20, 3), (300, 100)] {
            let area = Rect::new(0, 0, width, height);
            draw::frame(&view, area, &mut Buffer::empty(area));
            draw::message("no answer", area, &mut Buffer::empty(area));
        }
    }
}
