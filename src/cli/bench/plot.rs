//! Plots as inline SVG: lines over an axis, and bars. Colours are the page's, so that they follow its dark mode.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// By factors of ten.
    Log,
    /// Shares below 1: each step is another nine.
    Nines,
}

/// One axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
}

/// A named line. A gap is a point that is not there.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A figure with these lines; nothing if there is no point to draw.
pub(super) fn lines(title: &str, x: Axis, y: Axis, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (Some(x_axis), Some(y_axis)) = (
        Ticks::new(x.scale, all().map(|point| point.0)),
        Ticks::new(y.scale, all().map(|point| point.1)),
    ) else {
        return String::new();
    };
    let mut svg = frame(title, x.label, y.label);
    let (across, down) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |value| LEFT + across * x_axis.place(value);
    let at_y = |value| TOP + down * (1.0 - y_axis.place(value));
    for (value, label) in &x_axis.ticks {
        grid_x(&mut svg, at_x(*value), label);
    }
    for (value, label) in &y_axis.ticks {
        grid_y(&mut svg, at_y(*value), label);
    }
    for (number, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.points.is_empty())
    {
        let mut points = String::new();
        for &(x, y) in &line.points {
            push(&mut points, format_args!("{:.1},{:.1} ", at_x(x), at_y(y)));
        }
        push(
            &mut svg,
            format_args!(
                "<polyline class=\"line c{number}\" points=\"{}\"/>",
                points.trim_end()
            ),
        );
        if let [(x, y)] = line.points[..] {
            push(
                &mut svg,
                format_args!(
                    "<circle class=\"dot c{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                    at_x(x),
                    at_y(y)
                ),
            );
        }
    }
    svg.push_str("</svg>");
    let mut legend = String::new();
    for (number, line) in lines.iter().enumerate() {
        push(
            &mut legend,
            format_args!(
                "<span class=\"key\"><i class=\"c{number}\"></i>{}</span> ",
                escape(line.name)
            ),
        );
    }
    figure(title, &svg, &legend)
}

/// A figure with a bar for each of these counts.
pub(super) fn bars(title: &str, x_label: &str, y_label: &str, counts: &[(String, u64)]) -> String {
    let Some(y_axis) = Ticks::new(Scale::Linear, counts.iter().map(|(_, count)| *count as f64)) else {
        return String::new();
    };
    let mut svg = frame(title, x_label, y_label);
    let (across, down) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    for (value, label) in &y_axis.ticks {
        grid_y(&mut svg, TOP + down * (1.0 - y_axis.place(*value)), label);
    }
    let step = across / counts.len() as f64;
    for (number, (label, count)) in counts.iter().enumerate() {
        let (left, height) = (LEFT + step * number as f64, down * y_axis.place(*count as f64));
        push(
            &mut svg,
            format_args!(
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{}: {count}</title></rect>",
                left + step * 0.1,
                TOP + down - height,
                step * 0.8,
                escape(label)
            ),
        );
        tick_x(&mut svg, left + step / 2.0, label);
    }
    svg.push_str("</svg>");
    figure(title, &svg, "")
}

/// Where values are on an axis, and which of them are written to it.
struct Ticks {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Ticks {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values
            .map(|value| position(scale, value))
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > high {
            return None;
        }
        let (low, high, step) = match scale {
            Scale::Linear => {
                let step = nice(high / 5.0);
                (0.0, (high / step).ceil().max(1.0) * step, step)
            }
            Scale::Log => (low.floor(), high.ceil().max(low.floor() + 1.0), 1.0),
            Scale::Nines => (0.0, high.ceil().max(1.0), 1.0),
        };
        let count = ((high - low) / step).round() as usize;
        let ticks = (0..=count).map(|number| {
            let at = low + step * number as f64;
            match scale {
                Scale::Linear => (at, short(at)),
                Scale::Log => (10_f64.powf(at), short(10_f64.powf(at))),
                Scale::Nines => (1.0 - 10_f64.powf(-at), nines(number)),
            }
        });
        Some(Self {
            scale,
            low,
            high,
            ticks: ticks.collect(),
        })
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        ((position(self.scale, value) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

fn position(scale: Scale, value: f64) -> f64 {
    match scale {
        Scale::Linear => value,
        // Below a microsecond nothing is measured.
        Scale::Log => value.max(1e-3).log10(),
        Scale::Nines => -(1.0 - value).log10(),
    }
}

/// The next of 1, 2, 5, 10, 20 and so on, not below.
fn nice(step: f64) -> f64 {
    if step <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|factor| factor * decade >= step * 0.999_999);
    factor.unwrap_or(10.0) * decade
}

fn short(value: f64) -> String {
    // To four digits, without the noise of the last binary ones.
    let digits = (3 - value.abs().max(1e-9).log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn nines(count: usize) -> String {
    match count {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

fn frame(title: &str, x_label: &str, y_label: &str) -> String {
    let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    let half = (TOP + HEIGHT - BOTTOM) / 2.0;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\
         <text class=\"label\" x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>\
         <text class=\"label\" x=\"14\" y=\"{half}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {half})\">{}</text>",
        escape(title),
        escape(x_label),
        escape(y_label)
    )
}

fn grid_x(svg: &mut String, x: f64, label: &str) {
    push(
        svg,
        format_args!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
            HEIGHT - BOTTOM
        ),
    );
    tick_x(svg, x, label);
}

fn tick_x(svg: &mut String, x: f64, label: &str) {
    push(
        svg,
        format_args!(
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            escape(label)
        ),
    );
}

fn grid_y(svg: &mut String, y: f64, label: &str) {
    push(
        svg,
        format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(label)
        ),
    );
}

fn figure(title: &str, svg: &str, legend: &str) -> String {
    format!(
        "<figure><h2>{}</h2>{svg}<figcaption>{legend}</figcaption></figure>\n",
        escape(title)
    )
}

/// Text as it may stand in HTML, attributes included.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn push(into: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _written = into.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        let ticks = Ticks::new(scale, values.iter().copied()).expect("some").ticks;
        ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn axes_have_round_ticks() {
        assert_eq!(
            labels(Scale::Linear, &[3.0, 97.0]),
            ["0", "20", "40", "60", "80", "100"]
        );
        assert_eq!(
            labels(Scale::Linear, &[0.25]),
            ["0", "0.05", "0.1", "0.15", "0.2", "0.25"]
        );
        assert_eq!(labels(Scale::Linear, &[0.0]), ["0", "1"]);
        assert_eq!(
            labels(Scale::Log, &[0.3, 250.0]),
            ["0.1", "1", "10", "100", "1000"]
        );
        assert_eq!(
            labels(Scale::Nines, &[0.5, 0.9995]),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
        assert!(Ticks::new(Scale::Linear, [].into_iter()).is_none());
    }

    #[test]
    fn names_of_others_are_text() {
        assert_eq!(
            escape("<a href=\"x\">&\u{1b}[2J"),
            "&lt;a href=&quot;x&quot;&gt;&amp; [2J"
        );
    }

    #[test]
    fn what_is_greatest_is_at_the_top() {
        let ticks = Ticks::new(Scale::Log, [1.0, 1_000.0].into_iter()).expect("some");
        assert_eq!((ticks.place(1.0), ticks.place(1_000.0)), (0.0, 1.0));
        assert!((ticks.place(10.0) - 1.0 / 3.0).abs() < 1e-9);
    }
}
