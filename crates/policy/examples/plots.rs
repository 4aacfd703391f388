//! The plots of the documentation, drawn from the policies themselves: `make plots`.

#[path = "../tests/overload/mod.rs"]
mod overload;

use std::error::Error;

use counterfoil_policy::breaker::{Breaker, Settings};
use counterfoil_policy::fixed_window::FixedWindow;
use counterfoil_policy::gcra::{Decision, Gcra};
use counterfoil_policy::keyed::Keyed;
use counterfoil_policy::sliding_counter::SlidingCounter;
use counterfoil_policy::sliding_log::SlidingLog;
use overload::{MS, overload};
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 380);
const COLORS: [RGBColor; 4] = [
    RGBColor(0x1b, 0x6c, 0xa8),
    RGBColor(0xd1, 0x49, 0x5b),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0x8a, 0x63, 0xd2),
];

type Line = (&'static str, Vec<(f64, f64)>);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "docs".into());
    draw(
        &format!("{folder}/limits.svg"),
        "Passed since the limit was last idle, 100 a second, as many asked for as can be",
        ("seconds from the end of a window of the clock", "requests passed"),
        &boundary_burst(),
    )?;
    draw(
        &format!("{folder}/shedding.svg"),
        "Part of requests that succeed, by tier (Gold 30%, Silver 30%, Bronze 40% of the load)",
        ("load, in parts of what the backend can do", "success"),
        &shedding(),
    )?;
    draw(
        &format!("{folder}/breaker.svg"),
        "An outage from second 2 to 5, 100 requests a second",
        ("seconds", "requests in 0.1 seconds that reach the instance"),
        &breaker(),
    )
}

/// Nothing is asked for during a window and more, then everything.
fn boundary_burst() -> Vec<Line> {
    let (window_ns, requests) = (1_000 * MS, 100);
    let gcra = Gcra::new(f64::from(requests), requests, 16);
    let fixed = Keyed::new(FixedWindow { requests, window_ns }, 16);
    let counter = Keyed::new(SlidingCounter { requests, window_ns }, 16);
    let log = Keyed::new(SlidingLog { requests, window_ns }, 16);
    let curve = |check: &dyn Fn(u64) -> Decision| {
        let mut passed = 0;
        (1_900..3_000)
            .map(|ms| {
                for part in 0..20 {
                    passed += u32::from(check(ms * MS + part * MS / 20) == Decision::Allowed);
                }
                ((ms + 1) as f64 / 1e3 - 2.0, f64::from(passed))
            })
            .collect()
    };
    vec![
        ("gcra", curve(&|now| gcra.check("key", now))),
        ("fixed_window", curve(&|now| fixed.check("key", now))),
        ("sliding_counter", curve(&|now| counter.check("key", now))),
        ("sliding_log", curve(&|now| log.check("key", now))),
    ]
}

fn shedding() -> Vec<Line> {
    let loads: Vec<f64> = (2..=30).map(|tenths| f64::from(tenths) / 10.0).collect();
    let fates: Vec<_> =
        loads.iter().map(|load| overload(1, 32, [0.3 * load, 0.3 * load, 0.4 * load], 4_000 * MS)).collect();
    let tier = |tier: usize| {
        loads.iter().zip(&fates).map(|(load, [during, _])| (*load, during[tier].success())).collect()
    };
    vec![("gold", tier(0)), ("silver", tier(1)), ("bronze", tier(2))]
}

fn breaker() -> Vec<Line> {
    let settings = Settings {
        failures: 5,
        ratio: f64::INFINITY,
        window_ns: 10_000 * MS,
        minimum: 20,
        open_ns: 1_000 * MS,
        probes: 1,
    };
    let breaker = Breaker::new(settings, 0);
    let (mut with, mut without) = (vec![0.0; 80], vec![0.0; 80]);
    for number in 0..800usize {
        let now = number as u64 * 10 * MS;
        let fails = (2_000 * MS..5_000 * MS).contains(&now);
        without[number / 10] += 1.0;
        if let Some(pass) = breaker.admit(now) {
            with[number / 10] += 1.0;
            if fails { breaker.failure(pass, now) } else { breaker.success(pass, now) }
        }
    }
    let line = |counts: Vec<f64>| {
        counts.into_iter().enumerate().map(|(tenth, count)| (tenth as f64 / 10.0, count)).collect()
    };
    vec![("with a breaker", line(with)), ("without", line(without))]
}

fn draw(path: &str, title: &str, axes: (&str, &str), lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let range = |values: Vec<f64>| {
        let (least, most) = values
            .iter()
            .fold((f64::MAX, f64::MIN), |range, value| (range.0.min(*value), range.1.max(*value)));
        (least, most)
    };
    let (left, right) = range(points().map(|point| point.0).collect());
    let (_, top) = range(points().map(|point| point.1).collect());
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(left..right, 0.0..top * 1.08)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(axes.0).y_desc(axes.1).draw()?;
    for ((name, points), color) in lines.iter().zip(COLORS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(TRANSPARENT)
        .draw()?;
    root.present()?;
    Ok(())
}
