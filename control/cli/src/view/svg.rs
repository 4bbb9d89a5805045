//! A host's tree as a drawing that stands by itself: no script, no font, no address to fetch anything from. What
//! a colour says a word says, too, and each box has all there is to say of it as its title. Light and dark
//! are the reader's choice.

use super::topology::{Branch, Kind, Topology};
use crate::output::{Cell, Tone};
use crate::text::markup;
use std::fmt::Write as _;

const LEAF_WIDTH: u32 = 190;
const LEAF_HEIGHT: u32 = 62;
const GAP: u32 = 8;
const PAD: u32 = 10;
/// For a box's title.
const HEAD: u32 = 24;
/// Things with nothing behind them stand in rows of these many.
const COLUMNS: usize = 2;
/// Characters that fit into a box of that width.
const FIT: usize = 30;

const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;--faint:#5b6570;--line:#8b949e;--box:#f4f6f8;\
--good:#1a7f37;--busy:#9a6700;--bad:#c6232c}\
@media (prefers-color-scheme:dark){:root{--ground:#0f1318;--ink:#e6e9ec;--faint:#9aa4ae;--line:#6a737d;\
--box:#181d23;--good:#3fb950;--busy:#d29922;--bad:#ff6b6b}}\
text{font:12px system-ui,sans-serif;fill:var(--ink)}.h{font-weight:600}.f{fill:var(--faint)}\
.ground{fill:var(--ground)}rect{fill:var(--box);stroke:var(--line)}\
.good>rect{stroke:var(--good)}.busy>rect{stroke:var(--busy);stroke-width:2}\
.bad>rect{stroke:var(--bad);stroke-width:3}";

/// The drawing, as a document of its own.
pub fn svg(name: &str, note: &str, topology: &Topology) -> String {
    let columns = topology.nodes.len().clamp(1, 2);
    let mut body = String::new();
    let (mut y, mut width) = (PAD + 2 * HEAD, 0);
    for row in topology.nodes.chunks(columns) {
        let mut x = PAD;
        let mut tallest = 0;
        for node in row {
            let (w, h) = size(node);
            draw(node, (x, y), &mut body);
            x += w + GAP;
            tallest = tallest.max(h);
        }
        width = width.max(x - GAP + PAD);
        y += tallest + GAP;
    }
    let height = y - GAP + PAD;
    // Room for the heading where there is nothing else.
    let width = width.max(2 * LEAF_WIDTH);
    let (name, note) = (markup(name), markup(note));
    let devices = count(&topology.nodes, Kind::Device);
    let drives = count(&topology.nodes, Kind::Drive);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
         <title id=\"title\">Topology of {name}</title>\n\
         <desc id=\"desc\">{note}. {devices} devices and {drives} disks, by NUMA node, root port and switch.</desc>\n\
         <style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\" stroke=\"none\"/>\n\
         <text class=\"h\" x=\"{PAD}\" y=\"{HEAD}\">{name}</text>\n\
         <text class=\"f\" x=\"{PAD}\" y=\"{}\">{note}</text>\n{body}</svg>\n",
        HEAD + 18
    )
}

fn count(branches: &[Branch], kind: Kind) -> usize {
    branches.iter().map(|b| usize::from(b.kind == kind) + count(&b.below, kind)).sum()
}

/// Those with something behind them, and those without.
fn parts(branch: &Branch) -> (Vec<&Branch>, Vec<&Branch>) {
    branch.below.iter().partition(|b| !matches!(b.kind, Kind::Device | Kind::Drive))
}

/// A node's roots stand beside each other, everything else below each other.
fn size(branch: &Branch) -> (u32, u32) {
    if matches!(branch.kind, Kind::Device | Kind::Drive) {
        return (LEAF_WIDTH, LEAF_HEIGHT);
    }
    let (boxes, leaves) = parts(branch);
    let sizes: Vec<(u32, u32)> = boxes.iter().map(|b| size(b)).collect();
    let (mut width, mut height) = match branch.kind {
        Kind::Node => (
            sizes.iter().map(|(w, _)| w + GAP).sum::<u32>().saturating_sub(GAP),
            sizes.iter().map(|(_, h)| *h).max().unwrap_or(0),
        ),
        _ => (
            sizes.iter().map(|(w, _)| *w).max().unwrap_or(0),
            sizes.iter().map(|(_, h)| h + GAP).sum::<u32>().saturating_sub(GAP),
        ),
    };
    if !leaves.is_empty() {
        let rows = number(leaves.len().div_ceil(COLUMNS));
        let across = number(leaves.len().min(COLUMNS));
        width = width.max(across * (LEAF_WIDTH + GAP) - GAP);
        height += rows * (LEAF_HEIGHT + GAP) - if boxes.is_empty() { GAP } else { 0 };
    }
    (width.max(LEAF_WIDTH) + 2 * PAD, height + HEAD + PAD)
}

fn draw(branch: &Branch, (x, y): (u32, u32), out: &mut String) {
    let (width, height) = size(branch);
    let class = match branch.said.iter().map(|cell| cell.tone_of()).max_by_key(|tone| weight(*tone)) {
        Some(Tone::Bad) => "bad",
        Some(Tone::Busy) => "busy",
        Some(Tone::Good) => "good",
        Some(Tone::Plain | Tone::Dim) | None => "plain",
    };
    let cells: Vec<&Cell> = branch.said.iter().filter(|cell| !cell.shown().is_empty()).collect();
    let said: Vec<&str> = cells.iter().map(|cell| cell.shown()).collect();
    let whole =
        std::iter::once(branch.title.as_str()).chain(said.iter().copied()).collect::<Vec<_>>().join(", ");
    let _ = write!(
        out,
        "<g class=\"{class}\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>",
        markup(&whole)
    );
    let fits = FIT * usize::try_from(width / LEAF_WIDTH).unwrap_or(1).max(1);
    let mut text = |class: &str, down: u32, text: &str| {
        if text.is_empty() {
            return;
        }
        let text = markup(&shortened(text, fits));
        let _ = write!(out, "<text class=\"{class}\" x=\"{}\" y=\"{}\">{text}</text>", x + 8, y + down);
    };
    if matches!(branch.kind, Kind::Device | Kind::Drive) {
        text("h", 18, &branch.title);
        // The link and what keeps it apart first, then how it stands.
        let (first, _) = said.split_at(said.len().min(2));
        // What is wrong is not what is cut off.
        let mut rest: Vec<&&Cell> = cells.iter().skip(2).collect();
        rest.sort_by_key(|cell| cell.tone_of() != Tone::Bad);
        let rest: Vec<&str> = rest.iter().map(|cell| cell.shown()).collect();
        text("f", 35, &first.join(" · "));
        text("f", 52, &rest.join(" · "));
    } else {
        text("h", 17, &format!("{}  {}", branch.title, said.join(" · ")));
    }
    out.push_str("</g>\n");
    let (boxes, leaves) = parts(branch);
    let (mut right, mut down) = (x + PAD, y + HEAD);
    for row in leaves.chunks(COLUMNS) {
        for (at, leaf) in (0..).zip(row) {
            draw(leaf, (x + PAD + at * (LEAF_WIDTH + GAP), down), out);
        }
        down += LEAF_HEIGHT + GAP;
    }
    for inner in boxes {
        let (w, h) = size(inner);
        draw(inner, (right, down), out);
        match branch.kind {
            Kind::Node => right += w + GAP,
            _ => down += h + GAP,
        }
    }
}

fn weight(tone: Tone) -> u8 {
    match tone {
        Tone::Plain | Tone::Dim => 0,
        Tone::Good => 1,
        Tone::Busy => 2,
        Tone::Bad => 3,
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX / 1024)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
