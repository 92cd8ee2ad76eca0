//! The curves of docs/TUNING.md: what rate, places in flight and the delays between retries do, against the formulas.
//!
//! `cargo bench --bench curves` (about eight minutes; one with `-- NAME`) prints the points and writes docs/images/NAME.svg. Each point is a
//! gateway with a simulator, fresh, under `sluicegate bench run`.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

use support::Server;

/// A line: its name, and its points.
type Line = (&'static str, Vec<(f64, f64)>);

struct Plot {
    name: &'static str,
    x: &'static str,
    y: &'static str,
    /// Measured lines are drawn with their points, ...
    measured: Vec<Line>,
    /// ... those of a formula without.
    computed: Vec<Line>,
    /// Where there is no line.
    legend: SeriesLabelPosition,
}

fn main() {
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let curves = [
        ("rate", rate as fn() -> Plot),
        ("in-flight", in_flight),
        ("retries", retries),
    ];
    for (name, curve) in curves {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let plot = curve();
            plot.print();
            plot.draw();
        }
    }
}

/// A gateway with this ledger under this load: the report.
fn measure(ledger: &str, load: &str) -> Value {
    let folder = tempfile::tempdir().expect("folder");
    let config = format!("[http]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'error'\n{ledger}");
    let gateway = Server::gateway(folder.path(), &config);
    let report = folder.path().join("report.json");
    let status = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["bench", "run", "--url", &format!("http://{}", gateway.address)])
        .args([
            "--contract",
            "counter",
            "--function",
            "Add",
            "--args",
            r#"["{key}", 1]"#,
        ])
        .args(load.split(' '))
        .arg("--json")
        .arg(&report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("starts");
    assert!(status.success(), "{load}: {status}");
    serde_json::from_slice(&std::fs::read(&report).expect("a report")).expect("JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).expect(pointer)
}

/// Blocks are cut by time while the rate is low, and by count when it is high.
fn rate() -> Plot {
    let (timeout_ms, count) = (500.0, 50.0_f64);
    let (mut p50, mut p99, mut computed) = (Vec::new(), Vec::new(), Vec::new());
    for rate in [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0, 800.0] {
        let report = measure(
            "[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 500\nmax_message_count = 50\n[ledgers.main.worker]\nrate_per_second = 2000\nmax_in_flight = 2000\n",
            &format!("--rate {rate} --arrivals poisson --duration 12 --warm-up 2 --keys uniform:1000000"),
        );
        p50.push((rate, number(&report, "/end_to_end/p50")));
        p99.push((rate, number(&report, "/end_to_end/p99")));
        computed.push((rate, (count / rate * 1e3).min(timeout_ms)));
    }
    Plot {
        name: "rate",
        x: "transactions per second",
        y: "accept to done, ms",
        measured: vec![("p50", p50), ("p99", p99)],
        computed: vec![("T = min(BatchTimeout, MaxMessageCount / r)", computed)],
        legend: SeriesLabelPosition::LowerLeft,
    }
}

/// More than what is in flight cannot be settled in the time that it takes.
fn in_flight() -> Plot {
    let (offered, block_s) = (1_000.0_f64, 0.2);
    let (mut settled, mut computed) = (Vec::new(), Vec::new());
    for places in [8.0_f64, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0] {
        let report = measure(
            &format!(
                "[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 200\nmax_message_count = 10000\n[ledgers.main.worker]\nrate_per_second = 10000\nburst = 100\nmax_in_flight = {places}\n"
            ),
            &format!("--rate {offered} --duration 10 --warm-up 0 --settle 1 --keys uniform:1000000"),
        );
        // What has settled a second after the load, which lasts ten; the rest waits.
        let done = number(&report, "/counts/done");
        settled.push((places, done / 11.0));
        computed.push((places, (places / block_s).min(offered * 10.0 / 11.0)));
    }
    Plot {
        name: "in-flight",
        x: "max_in_flight",
        y: "settled per second, of 10,000 in 11 s",
        measured: vec![("measured", settled)],
        computed: vec![("max_in_flight / block time", computed)],
        legend: SeriesLabelPosition::UpperLeft,
    }
}

/// One key, which changes once per block of 100 ms, is wanted eight times a second.
fn retries() -> Plot {
    let (mut fixed, mut adaptive) = (Vec::new(), Vec::new());
    for max_ms in [100.0, 200.0, 500.0, 1_000.0, 2_000.0, 4_000.0] {
        for (enabled, line) in [(false, &mut fixed), (true, &mut adaptive)] {
            let report = measure(
                &format!(
                    "[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 100\nmax_message_count = 100\n[ledgers.main.retry]\nmin_ms = 50\nmax_ms = {max_ms}\nmax_attempts = 1000\n[ledgers.main.adaptive]\nenabled = {enabled}\nmin_rate_per_second = 10\n"
                ),
                "--rate 8 --arrivals poisson --duration 20 --warm-up 2 --settle 120 --keys hot",
            );
            line.push((max_ms, number(&report, "/tries/mean")));
        }
    }
    Plot {
        name: "retries",
        x: "max_ms",
        y: "submissions for each transaction",
        measured: vec![("rate 100", fixed), ("adaptive", adaptive)],
        computed: Vec::new(),
        legend: SeriesLabelPosition::UpperRight,
    }
}

impl Plot {
    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.measured.iter().chain(&self.computed)
    }

    fn print(&self) {
        let names: Vec<_> = self.lines().map(|(name, _)| *name).collect();
        println!("\n| {} | {} |", self.x, names.join(" | "));
        println!("|---|{}", "---|".repeat(names.len()));
        let xs = self.measured.first().map_or(&[][..], |(_, points)| points);
        for (row, (x, _)) in xs.iter().enumerate() {
            let ys: Vec<_> = self
                .lines()
                .map(|(_, points)| format!("{:.2}", points[row].1))
                .collect();
            println!("| {x} | {} |", ys.join(" | "));
        }
    }

    fn draw(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/images/{}.svg", self.name));
        let area = SVGBackend::new(&path, (720, 420)).into_drawing_area();
        self.draw_on(&area).expect("draws");
        println!("\n{}", path.display());
    }

    fn draw_on(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let points = || self.lines().flat_map(|(_, points)| points.iter().copied());
        let bounds = |of: fn((f64, f64)) -> f64| {
            let values = || points().map(of);
            (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max))
        };
        let ((left, right), (low, high)) = (bounds(|(x, _)| x), bounds(|(_, y)| y));
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((left..right).log_scale(), (low * 0.8..high * 1.2).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let colours = [
            RGBColor(0, 90, 181),
            RGBColor(220, 50, 32),
            RGBColor(120, 120, 120),
        ];
        for (n, (name, points)) in self.lines().enumerate() {
            let style = colours[n % colours.len()].stroke_width(2);
            let line = match n < self.measured.len() {
                true => LineSeries::new(points.iter().copied(), style).point_size(4),
                false => LineSeries::new(points.iter().copied(), style),
            };
            chart
                .draw_series(line)?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .position(self.legend.clone())
            .draw()?;
        area.present()?;
        Ok(())
    }
}
