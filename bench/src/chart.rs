// SPDX-License-Identifier: GPL-2.0

//! The chart of the README: the cost of each subject.

use crate::{results::Results, subject::Subject};
use plotters::prelude::*;

/// Draws the cost that each subject adds to an IPv4 TCP packet, as SVG.
pub fn draw(results: &Results) -> String {
    let bars: Vec<_> = Subject::ALL
        .iter()
        .filter_map(|subject| {
            let name = subject.name();
            let one_thread = results.median_cost(name, "uml", "ipv4-tcp", 1)?;
            let two_threads = results.median_cost(name, "uml", "ipv4-tcp", 2)?;
            (name != "none").then_some((name, one_thread, two_threads))
        })
        .collect();
    let highest_cost = bars
        .iter()
        .flat_map(|(_, one_thread, two_threads)| [*one_thread, *two_threads])
        .fold(1.0, f64::max);
    let mut svg = String::new();

    plot(&bars, highest_cost, &mut svg)
        .unwrap_or_else(|error| panic!("drawing the chart: {error}"));
    svg
}

/// Draws a pair of bars for each subject: its name, and its cost with one thread and with two.
fn plot(
    bars: &[(&str, f64, f64)],
    highest_cost: f64,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (760, 60 + 44 * bars.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .caption(
            "What counting adds to an IPv4 TCP packet, ns (1 and 2 threads)",
            ("sans-serif", 17),
        )
        .x_label_area_size(28)
        .y_label_area_size(110)
        .build_cartesian_2d(
            0.0..highest_cost * 1.1,
            (0..bars.len().saturating_sub(1)).into_segmented(),
        )?;

    chart
        .configure_mesh()
        .disable_y_mesh()
        .max_light_lines(1)
        .y_labels(bars.len())
        .y_label_formatter(&|segment| match segment {
            SegmentValue::CenterOf(i) if *i < bars.len() => bars[bars.len() - 1 - i].0.to_owned(),
            _ => String::new(),
        })
        .label_style(("sans-serif", 14))
        .draw()?;

    for (threads, color, margin) in [
        (1, RGBColor(31, 119, 180), (4, 20)),
        (2, RGBColor(255, 127, 14), (20, 4)),
    ] {
        chart
            .draw_series(bars.iter().rev().enumerate().map(|(i, bar)| {
                let (_, one_thread, two_threads) = *bar;
                let cost = if threads == 1 {
                    one_thread
                } else {
                    two_threads
                };
                let bottom = SegmentValue::Exact(i);
                let top = if i + 1 == bars.len() {
                    SegmentValue::Last
                } else {
                    SegmentValue::Exact(i + 1)
                };
                let mut bar = Rectangle::new([(0.0, bottom), (cost, top)], color.filled());
                bar.set_margin(margin.0, margin.1, 0, 0);
                bar
            }))?
            .label(if threads == 1 {
                "1 thread"
            } else {
                "2 threads"
            })
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}
