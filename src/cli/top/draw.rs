//! A view on a buffer of characters: the same for a terminal and for paper.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Widget};

use super::view::View;

const LOUD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
/// Lines of a box beside its rows: the frame, and the names of the columns.
const BOX: u16 = 3;
/// Rates that ask for a look as soon as they are not zero.
const ALARMING: [&str; 5] =
    ["not taken by the log", "dead letters", "dropped", "insert errors", "questions failed"];

/// Lines that a frame takes when nothing is cut off.
pub(super) fn height(view: &View) -> u16 {
    1 + upper(view) + lower(view)
}

fn upper(view: &View) -> u16 {
    lines(view.rates.len().max(view.groups.len().max(1) + 2 + view.means.len())) + BOX
}

fn lower(view: &View) -> u16 {
    let troubles = view.components.iter().filter(|component| component.state != "up").count();
    lines(view.dead_letters.len().max(view.breakers.len()).max(troubles).max(1)) + BOX
}

fn lines(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX / 4)
}

/// The whole dashboard.
pub(super) fn frame(view: &View, area: Rect, buffer: &mut Buffer) {
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(upper(view)), Constraint::Min(0)])
            .areas(area);
    let status = if view.status == "ready" { HEAD } else { LOUD };
    let head_line = [
        Span::styled("flexflow top  ", HEAD),
        Span::raw(format!("{}  ", view.url)),
        Span::styled(view.status.clone(), status),
        Span::raw("  (q ends)"),
    ];
    Line::from_iter(head_line).render(head, buffer);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(middle);
    rates(view, left, buffer);
    let groups_height = lines(view.groups.len().max(1)) + BOX;
    let [upper, lower] =
        Layout::vertical([Constraint::Length(groups_height), Constraint::Min(0)]).areas(right);
    groups(view, upper, buffer);
    means(view, lower, buffer);
    let [dead, breakers, components] = Layout::horizontal([
        Constraint::Percentage(28),
        Constraint::Percentage(27),
        Constraint::Percentage(45),
    ])
    .areas(foot);
    dead_letters(view, dead, buffer);
    breakers_of(view, breakers, buffer);
    troubles(view, components, buffer);
}

/// What is said when there is nothing to show.
pub(super) fn message(text: &str, area: Rect, buffer: &mut Buffer) {
    Paragraph::new(text.to_owned())
        .style(LOUD)
        .block(Block::bordered().title(" no answer "))
        .render(area, buffer);
}

fn table<'a, const N: usize>(
    title: &'a str,
    header: [&'a str; N],
    widths: [Constraint; N],
    rows: impl IntoIterator<Item = Row<'a>>,
) -> Table<'a> {
    let block = Block::bordered().title(Line::from(format!(" {title} ")));
    Table::new(rows, widths).header(Row::new(header).style(HEAD)).block(block)
}

fn rates(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = view.rates.iter().map(|rate| {
        let happens = rate.per_second.is_some_and(|rate| rate > 0.0);
        let style = if happens && ALARMING.contains(&rate.name) { LOUD } else { Style::new() };
        let cells =
            [rate.name.to_owned(), rate.per_second.map_or_else(|| "-".to_owned(), number), whole(rate.total)];
        Row::new(cells).style(style)
    });
    let widths = [Constraint::Min(21), Constraint::Length(12), Constraint::Length(13)];
    table("events", ["", "a second", "total"], widths, rows).render(area, buffer);
}

fn groups(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = view.groups.iter().map(|group| {
        Row::new([
            group.group.clone(),
            group.topic.clone(),
            group.lag.to_string(),
            group.lag_max.to_string(),
            group.per_second.map_or_else(|| "-".to_owned(), number),
        ])
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Min(12),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    table("lag", ["group", "topic", "lag", "worst", "a second"], widths, rows).render(area, buffer);
}

fn means(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = view.means.iter().map(|mean| {
        let told = match (mean.mean, mean.unit) {
            (None, _) => "-".to_owned(),
            (Some(mean), "s") => format!("{:.1} ms", mean * 1000.0),
            (Some(mean), _) => number(mean),
        };
        Row::new([mean.name.to_owned(), told])
    });
    let widths = [Constraint::Min(20), Constraint::Length(12)];
    let block = Block::bordered().title(Line::from(" means since the last look "));
    Table::new(rows, widths).block(block).render(area, buffer);
}

fn dead_letters(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = view.dead_letters.iter().map(|(kind, total)| Row::new([kind.clone(), whole(*total)]));
    let widths = [Constraint::Min(16), Constraint::Length(8)];
    table("dead letters", ["reason", "total"], widths, rows).render(area, buffer);
}

fn breakers_of(view: &View, area: Rect, buffer: &mut Buffer) {
    let rows = view.breakers.iter().map(|(dependency, state)| {
        let style = if *state == "closed" { Style::new() } else { LOUD };
        Row::new([Cell::from(dependency.clone()), Cell::from(*state).style(style)])
    });
    let widths = [Constraint::Min(14), Constraint::Length(10)];
    table("breakers", ["around", "state"], widths, rows).render(area, buffer);
}

fn troubles(view: &View, area: Rect, buffer: &mut Buffer) {
    let all = view.components.len();
    let troubled: Vec<_> = view.components.iter().filter(|component| component.state != "up").collect();
    let title = format!("components: {} of {all} up", all - troubled.len());
    let rows = troubled.iter().map(|component| {
        let cells = [component.name.clone(), component.state.clone(), component.reason.clone()];
        Row::new(cells).style(LOUD)
    });
    let widths = [Constraint::Length(12), Constraint::Length(9), Constraint::Min(10)];
    table(&title, ["name", "state", "reason"], widths, rows).render(area, buffer);
}

/// With one digit behind the point.
fn number(value: f64) -> String {
    format!("{value:.1}")
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
