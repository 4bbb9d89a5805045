//! Bars, as SVG.

use std::fmt::Write as _;

/// Ten colours would do; these are told apart by those who see few.
const COLOURS: [&str; 4] = ["#0072b2", "#56b4e9", "#e69f00", "#009e73"];
const LABEL: f64 = 250.0;
const WIDTH: f64 = 480.0;
const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 78.0;

/// A group of bars for each of `groups`, one bar for each of `series`, of four at most. The scale begins at 0 and goes
/// as far as the longest, or to 1.
pub fn bars(title: &str, series: &[&str], groups: &[(String, Vec<f64>)]) -> String {
    let longest = groups.iter().flat_map(|(_, values)| values).fold(1.0_f64, |most, value| most.max(*value));
    let end = (longest * 10.0).ceil() / 10.0;
    let x = |value: f64| LABEL + value / end * WIDTH;
    let group = BAR * series.len() as f64 + GAP;
    let bottom = HEAD + group * groups.len() as f64;
    let (width, height) = (LABEL + WIDTH + 60.0, bottom + 24.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    for (at, (name, colour)) in series.iter().zip(COLOURS).enumerate() {
        let left = 12.0 + 190.0 * at as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.0}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"46\">{name}</text>",
            left + 16.0
        );
    }
    let mut tick = 0.0;
    while tick <= end + 1e-9 {
        let at = x(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{HEAD}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ccc\"/>\
             <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{tick:.1}</text>",
            bottom + 15.0
        );
        tick += 0.2;
    }
    for (at, (name, values)) in groups.iter().enumerate() {
        let top = HEAD + GAP / 2.0 + group * at as f64;
        let middle = top + BAR * series.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>",
            LABEL - 8.0
        );
        for (at, (value, colour)) in values.iter().zip(COLOURS).enumerate() {
            let y = top + BAR * at as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{value:.2}</text>",
                value / end * WIDTH,
                BAR - 1.0,
                x(*value) + 4.0,
                y + 8.5
            );
        }
    }
    svg + "</svg>\n"
}
